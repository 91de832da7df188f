// Serves: the playbook's trigger, which subscribes to incidents. Reader: the playbook writes nothing; the app comments.
targetScope = 'resourceGroup'

@description('Object id of the playbook\'s identity.')
param principalId string

@description('Name of the workspace.')
param workspaceName string

// Microsoft Sentinel Reader (built in)
var roleId = '8d289c81-5878-46d4-8554-54e1e3d8b5cb'

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
