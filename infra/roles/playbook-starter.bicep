// Serves: the automation rule. Sentinel's own application, Azure Security Insights, starts the playbook as itself and needs
// this on the playbook's resource group, which holds nothing else.
targetScope = 'resourceGroup'

@description('Object id of Azure Security Insights in this tenant (application 98785600-1bb7-4fb9-b9fa-19afe2c8a360).')
param principalId string

// Microsoft Sentinel Automation Contributor (built in)
var roleId = 'f4c81013-99ee-4d62-a7ee-b3f1f648599a'

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(resourceGroup().id, principalId, roleId)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
  }
}
