// The workbook for people on duty.
targetScope = 'resourceGroup'

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('ARM id of the workspace whose tables it shows.')
param workspaceId string

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, 'agentbreaker-workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Agentbreaker'
    category: 'sentinel'
    sourceId: workspaceId
    version: '1.0'
    serializedData: loadTextContent('../monitoring/workbook.json')
  }
}
