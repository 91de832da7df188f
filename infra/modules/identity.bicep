// A user-assigned identity. User-assigned, so that it can be given its rights before what runs as it exists.
targetScope = 'resourceGroup'

@description('Name of the identity.')
param name string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: name
  location: location
  tags: tags
}

@description('ARM id of the identity.')
output id string = identity.id

@description('Client id (application id) of the identity.')
output clientId string = identity.properties.clientId

@description('Object id of the identity: what roles are given to.')
output principalId string = identity.properties.principalId
