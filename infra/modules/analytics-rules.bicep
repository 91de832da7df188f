// The detections as Sentinel analytics rules, from the list that `python -m workbench export --bicep` writes.
// An enabled rule makes incidents and alerts, nothing else: whether one contains is decided by the app's mode.
targetScope = 'resourceGroup'

@description('Name of the workspace.')
param workspaceName string

@description('Whether Sentinel runs the rules. They make incidents only; the app runs the same rules by itself.')
param enabled bool

var rules = loadJsonContent('../sentinel/rules.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

// A few at a time: Sentinel throttles.
@batchSize(5)
resource analyticsRules 'Microsoft.SecurityInsights/alertRules@2025-09-01' = [
  for rule in rules: {
    scope: workspace
    name: rule.name
    kind: 'Scheduled'
    properties: {
      displayName: rule.properties.displayName
      description: rule.properties.description
      severity: rule.properties.severity
      enabled: enabled
      query: rule.properties.query
      queryFrequency: rule.properties.queryFrequency
      queryPeriod: rule.properties.queryPeriod
      triggerOperator: rule.properties.triggerOperator
      triggerThreshold: rule.properties.triggerThreshold
      suppressionEnabled: rule.properties.suppressionEnabled
      suppressionDuration: rule.properties.suppressionDuration
      tactics: rule.properties.tactics
      techniques: rule.properties.techniques
      entityMappings: rule.properties.entityMappings
      customDetails: rule.properties.customDetails
      alertDetailsOverride: rule.properties.alertDetailsOverride
      eventGroupingSettings: rule.properties.eventGroupingSettings
      incidentConfiguration: rule.properties.incidentConfiguration
      templateVersion: rule.properties.templateVersion
    }
  }
]
