// Telemetry, in the same workspace as the logs that are judged, so that one query sees both.
targetScope = 'resourceGroup'

@description('Name of the Application Insights component.')
param name string

@description('Azure region.')
param location string

@description('Tags.')
param tags object

@description('ARM id of the workspace.')
param workspaceId string

resource component 'Microsoft.Insights/components@2020-02-02' = {
  name: name
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspaceId
    IngestionMode: 'LogAnalytics'
    // The connection string is then no secret: only who holds the role in roles/telemetry.bicep can write.
    DisableLocalAuth: true
    DisableIpMasking: false
  }
}

@description('Connection string. With local authentication off it opens nothing by itself.')
output connectionString string = component.properties.ConnectionString

@description('Name of the component.')
output name string = component.name
