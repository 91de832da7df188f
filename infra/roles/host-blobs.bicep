// Serves: the Functions host (package, locks, timer state, keys). No lever.
// Data Owner because the host takes leases and makes containers of its own; the account holds nothing else, so the
// identity cannot reach the ledger with it.
targetScope = 'resourceGroup'

@description('Object id of the app\'s identity.')
param principalId string

@description('Name of the host account.')
param accountName string

// Storage Blob Data Owner (built in)
var roleId = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'

resource account 'Microsoft.Storage/storageAccounts@2025-08-01' existing = {
  name: accountName
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: account
  name: guid(account.id, principalId, roleId)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
  }
}
