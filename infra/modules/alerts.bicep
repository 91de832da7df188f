// What calls people: an action group, and one alert on logs for each entry of monitoring/alerts.yaml.
targetScope = 'resourceGroup'

@description('Region of the workspace.')
param location string

@description('Tags.')
param tags object

@description('ARM id of the workspace.')
param workspaceId string

@description('Addresses that are mailed. Empty: alerts fire and nobody is called.')
param emailAddresses string[]

@description('Name of the storage account with state and ledger.')
param ledgerAccount string

@description('Object id of the app\'s identity, the only one that is to write there.')
param appPrincipalId string

@description('Whether alerts are evaluated.')
param enabled bool

var alerts = loadYamlContent('../monitoring/alerts.yaml')

resource onDuty 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: 'ag-agentbreaker'
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'agentbreak'
    emailReceivers: [
      for (address, at) in emailAddresses: {
        name: 'mail-${at}'
        emailAddress: address
        useCommonAlertSchema: true
      }
    ]
  }
}

resource logAlerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for alert in alerts: {
    name: 'agentbreaker-${alert.name}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: 'Agentbreaker: ${alert.title}'
      description: '${alert.description} Runbook: docs/operate.md#${alert.runbook}'
      severity: alert.severity
      enabled: enabled
      scopes: [
        workspaceId
      ]
      evaluationFrequency: alert.every
      windowSize: alert.window
      criteria: {
        allOf: [
          {
            query: replace(replace(alert.query, 'LEDGER_ACCOUNT', ledgerAccount), 'APP_PRINCIPAL', appPrincipalId)
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: alert.threshold
            dimensions: map(alert.split, column => {
              name: column
              operator: 'Include'
              values: [
                '*'
              ]
            })
            failingPeriods: {
              numberOfEvaluationPeriods: 1
              minFailingPeriodsToAlert: 1
            }
          }
        ]
      }
      autoMitigate: true
      // Tables of telemetry appear with their first row; without this the first deployment would be refused.
      skipQueryValidation: true
      actions: {
        actionGroups: [
          onDuty.id
        ]
      }
    }
  }
]
