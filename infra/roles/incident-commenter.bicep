// Serves: POST /api/incidents, which reads an incident, its alerts and its entities again, and the comment that says what
// was done (clients/sentinel.py). Responder is the least built-in role that may comment. It may also edit incidents,
// make and delete automation rules and read the workspace, which the app never does (docs/hardening.md).
targetScope = 'resourceGroup'

@description('Object id of the app\'s identity.')
param principalId string

@description('Name of the workspace.')
param workspaceName string

// Microsoft Sentinel Responder (built in)
var roleId = '3e150937-b8fe-4cfb-8069-0eaf05ecd056'

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
