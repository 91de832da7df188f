// Serves: the rules, the proof of a containment (a refused sign-in in the log) and the watchlist: clients/logs.py.
// Data Reader rather than Log Analytics Reader: the app only queries.
targetScope = 'resourceGroup'

@description('Object id of the app\'s identity.')
param principalId string

@description('Name of the workspace.')
param workspaceName string

// Log Analytics Data Reader (built in)
var roleId = '3b03c2da-16b3-4a49-8834-0f8130efdd3b'

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: workspace
  name: guid(workspace.id, principalId, roleId)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
  }
}
