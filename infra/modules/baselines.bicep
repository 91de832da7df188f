// What rules compare a principal's day with: four tables and the summary rules that fill them, from the files that
// local tests run. Bins and delays repeat detections/baselines/baselines.yaml; tests/infra compares them.
targetScope = 'resourceGroup'

@description('Name of the workspace.')
param workspaceName string

@description('Days for which summaries are kept. Rules look back 13 days, the dormant report 90.')
@minValue(30)
@maxValue(730)
param retentionDays int

@description('First day of the daily summaries, the same in every deployment.')
param firstDay string

var baselines = [
  {
    table: 'AgentGraphHourly_CL'
    columns: loadJsonContent('../../workbench/schemas/AgentGraphHourly_CL.json')
    query: loadTextContent('../../detections/baselines/graph_hourly.kql')
    binMinutes: 60
    delayMinutes: 45
  }
  {
    table: 'AgentSignInDaily_CL'
    columns: loadJsonContent('../../workbench/schemas/AgentSignInDaily_CL.json')
    query: loadTextContent('../../detections/baselines/sign_in_daily.kql')
    binMinutes: 1440
    delayMinutes: 60
  }
  {
    table: 'AgentVaultDaily_CL'
    columns: loadJsonContent('../../workbench/schemas/AgentVaultDaily_CL.json')
    query: loadTextContent('../../detections/baselines/vault_daily.kql')
    binMinutes: 1440
    delayMinutes: 60
  }
  {
    table: 'AgentResourceDaily_CL'
    columns: loadJsonContent('../../workbench/schemas/AgentResourceDaily_CL.json')
    query: loadTextContent('../../detections/baselines/resource_daily.kql')
    binMinutes: 1440
    delayMinutes: 60
  }
]

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource baselineTables 'Microsoft.OperationalInsights/workspaces/tables@2025-07-01' = [
  for baseline in baselines: {
    parent: workspace
    name: baseline.table
    properties: {
      plan: 'Analytics'
      retentionInDays: retentionDays
      totalRetentionInDays: retentionDays
      schema: {
        name: baseline.table
        columns: map(baseline.columns, column => {
          name: column[0]
          type: column[1] == 'datetime' ? 'dateTime' : column[1]
        })
      }
    }
  }
]

resource summaryRules 'Microsoft.OperationalInsights/workspaces/summaryLogs@2025-07-01' = [
  for baseline in baselines: {
    parent: workspace
    name: replace(baseline.table, '_CL', '')
    properties: {
      ruleType: 'User'
      displayName: replace(baseline.table, '_CL', '')
      description: 'Fills ${baseline.table} for the rules of Agentbreaker. Without it nobody has a past to be compared with.'
      ruleDefinition: {
        query: baseline.query
        binSize: baseline.binMinutes
        binDelay: baseline.delayMinutes
        timeSelector: 'TimeGenerated'
        // A day begins at midnight, in the queries as in the rules that read them; without this it would begin at the hour of
        // the deployment. The same in every deployment: what another one, or none, does to a rule that runs is not known.
        binStartTime: baseline.binMinutes == 1440 ? '${firstDay}T00:00:00Z' : null
        destinationTable: baseline.table
      }
    }
    dependsOn: [
      baselineTables
    ]
  }
]
