// The ledger's copy in the workspace: its table. Columns are those the app writes, from the file its tests read.
targetScope = 'resourceGroup'

@description('Name of the workspace.')
param workspaceName string

@description('Days for which the copy is kept; the ledger itself has no end.')
@minValue(90)
@maxValue(730)
param retentionDays int

var columns = loadJsonContent('../../workbench/schemas/AgentbreakerAudit_CL.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource auditTable 'Microsoft.OperationalInsights/workspaces/tables@2025-07-01' = {
  parent: workspace
  name: 'AgentbreakerAudit_CL'
  properties: {
    plan: 'Analytics'
    retentionInDays: retentionDays
    totalRetentionInDays: retentionDays
    schema: {
      name: 'AgentbreakerAudit_CL'
      columns: [
        for column in columns: {
          name: column[0]
          type: column[1] == 'datetime' ? 'dateTime' : column[1]
        }
      ]
    }
  }
}
