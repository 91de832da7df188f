// The playbook: hands the ARM id of an incident to the app, as its own identity, and nothing else. The app reads the
// incident again itself and answers at once with 200, so nothing is polled.
targetScope = 'resourceGroup'

@description('Name of the workflow.')
param name string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('ARM id of the identity that the playbook calls as.')
param identityId string

@description('Host name of the app.')
param appHost string

@description('Audience of the token: the app registration Agentbreaker API, never Azure Resource Manager.')
param audience string

@description('Address ranges (CIDR) from which run histories may be read. The default lets nobody: they name incidents.')
param runHistoryRanges string[] = [
  '127.0.0.1/32'
]

var connectionName = 'azuresentinel-${name}'

// The definition is text until here because Logic Apps wants the identity and the audience of a call written out.
var definition = json(replace(
  replace(replace(loadTextContent('../playbook/definition.json'), '{{HOST}}', appHost), '{{IDENTITY}}', identityId),
  '{{AUDIENCE}}',
  audience
))

module connection 'sentinel-connection.json' = {
  name: 'agentbreaker-connection'
  params: {
    name: connectionName
    location: location
    tags: tags
  }
}

resource playbook 'Microsoft.Logic/workflows@2019-05-01' = {
  name: name
  location: location
  tags: tags
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    state: 'Enabled'
    definition: definition
    parameters: {
      '$connections': {
        value: {
          azuresentinel: {
            id: subscriptionResourceId('Microsoft.Web/locations/managedApis', location, 'azuresentinel')
            connectionId: connection.outputs.id
            connectionName: connectionName
            connectionProperties: {
              authentication: {
                type: 'ManagedServiceIdentity'
                identity: identityId
              }
            }
          }
        }
      }
    }
    accessControl: {
      contents: {
        allowedCallerIpAddresses: [
          for addresses in runHistoryRanges: {
            addressRange: addresses
          }
        ]
      }
    }
  }
}

@description('ARM id of the playbook.')
output id string = playbook.id
