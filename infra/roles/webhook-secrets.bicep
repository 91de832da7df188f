// Serves: notifications. Webhook address and signing key stay in a vault; the app's settings only refer to them. The right
// is to these two secrets, which have to be there: the vault may hold others that are not the app's business.
targetScope = 'resourceGroup'

@description('Object id of the app\'s identity.')
param principalId string

@description('Name of the vault, which uses Azure roles.')
param vaultName string

// Key Vault Secrets User (built in)
var roleId = '4633458b-17de-408a-b874-0445c86b69e6'

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' existing = {
  name: vaultName
}

var secretNames = [
  'agentbreaker-webhook-url'
  'agentbreaker-webhook-secret'
]

resource secrets 'Microsoft.KeyVault/vaults/secrets@2026-02-01' existing = [
  for secretName in secretNames: {
    parent: vault
    name: secretName
  }
]

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (secretName, at) in secretNames: {
    scope: secrets[at]
    name: guid(secrets[at].id, principalId, roleId)
    properties: {
      principalId: principalId
      principalType: 'ServicePrincipal'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
    }
  }
]
