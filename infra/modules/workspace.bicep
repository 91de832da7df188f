// What the rest needs to know of the workspace that exists: read here, so that nobody types a workspace id wrong.
targetScope = 'resourceGroup'

@description('Name of the Log Analytics workspace with Microsoft Sentinel.')
param workspaceName string

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

@description('ARM id of the workspace.')
output id string = workspace.id

@description('The workspace id (GUID) that queries name.')
output customerId string = workspace.properties.customerId

@description('Region of the workspace: a data collection rule and alerts must lie there.')
output location string = workspace.location
