// A storage account without keys. Two are made of it: one for the host (package, locks, timers) and one for state and
// ledger, because whoever may write the package is not to be able to write the ledger.
targetScope = 'resourceGroup'

@description('Name of the account, 3 to 24 lower-case letters and digits.')
@minLength(3)
@maxLength(24)
param name string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('Blob container to make; empty for none.')
param containerName string = ''

@description('Table to make; empty for none.')
param tableName string = ''

@description('Whether only private endpoints reach the account.')
param privateOnly bool

@description('Copies: Standard_ZRS in three zones, Standard_LRS where the region has none.')
@allowed([
  'Standard_ZRS'
  'Standard_LRS'
])
param redundancy string

@description('ARM id of the workspace that takes the log of writes and deletions of tables.')
param workspaceId string

resource account 'Microsoft.Storage/storageAccounts@2025-08-01' = {
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: redundancy
  }
  properties: {
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    isLocalUserEnabled: false
    supportsHttpsTrafficOnly: true
    minimumTlsVersion: 'TLS1_2'
    publicNetworkAccess: privateOnly ? 'Disabled' : 'Enabled'
    networkAcls: {
      // Without a virtual network the app comes from addresses that are not ours to name: Entra alone decides then.
      defaultAction: privateOnly ? 'Deny' : 'Allow'
      bypass: 'None'
    }
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2025-08-01' = if (!empty(containerName)) {
  parent: account
  name: 'default'
  properties: {
    deleteRetentionPolicy: {
      enabled: true
      days: 14
    }
    containerDeleteRetentionPolicy: {
      enabled: true
      days: 14
    }
  }
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-08-01' = if (!empty(containerName)) {
  parent: blobs
  // A name is wanted also where the condition is false.
  name: empty(containerName) ? 'none' : containerName
  properties: {
    publicAccess: 'None'
  }
}

resource tables 'Microsoft.Storage/storageAccounts/tableServices@2025-08-01' = {
  parent: account
  name: 'default'
  properties: {}
}

resource table 'Microsoft.Storage/storageAccounts/tableServices/tables@2025-08-01' = if (!empty(tableName)) {
  parent: tables
  name: empty(tableName) ? 'none' : tableName
  properties: {}
}

// Who wrote to the ledger's table, from outside the app's own word.
resource tableLog 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!empty(tableName)) {
  name: 'agentbreaker-table-writes'
  scope: tables
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'StorageWrite'
        enabled: true
      }
      {
        category: 'StorageDelete'
        enabled: true
      }
    ]
  }
}

@description('ARM id of the account.')
output id string = account.id

@description('Name of the account.')
output name string = account.name

@description('Blob endpoint, with a slash at its end.')
output blobEndpoint string = account.properties.primaryEndpoints.blob

@description('Queue endpoint, with a slash at its end.')
output queueEndpoint string = account.properties.primaryEndpoints.queue

@description('Table endpoint, with a slash at its end.')
output tableEndpoint string = account.properties.primaryEndpoints.table
