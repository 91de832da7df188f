// The door into AgentbreakerAudit_CL: a data collection rule that takes rows over its own ingestion endpoint.
targetScope = 'resourceGroup'

@description('Name of the rule.')
param name string

@description('Region of the workspace.')
param location string

@description('Tags.')
param tags object

@description('ARM id of the workspace. Its table AgentbreakerAudit_CL must exist: modules/audit.bicep.')
param workspaceId string

var columns = loadJsonContent('../../workbench/schemas/AgentbreakerAudit_CL.json')

resource rule 'Microsoft.Insights/dataCollectionRules@2024-03-11' = {
  name: name
  location: location
  tags: tags
  // Gives the rule an endpoint of its own. The published list of kinds is open and does not name it.
  kind: 'Direct'
  properties: {
    streamDeclarations: {
      'Custom-AgentbreakerAudit_CL': {
        columns: [
          for column in columns: {
            name: column[0]
            type: column[1]
          }
        ]
      }
    }
    destinations: {
      logAnalytics: [
        {
          name: 'workspace'
          workspaceResourceId: workspaceId
        }
      ]
    }
    dataFlows: [
      {
        streams: [
          'Custom-AgentbreakerAudit_CL'
        ]
        destinations: [
          'workspace'
        ]
        transformKql: 'source'
        outputStream: 'Custom-AgentbreakerAudit_CL'
      }
    ]
  }
}

@description('Immutable id of the rule.')
output immutableId string = rule.properties.immutableId

@description('Where rows are sent to.')
output endpoint string = rule.properties.endpoints.logsIngestion

@description('Name of the rule.')
output name string = rule.name
