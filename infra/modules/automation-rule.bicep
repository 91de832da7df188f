// Runs the playbook when one of our own analytics rules makes an incident. Matched by rule id, never by title: the
// Defender portal renames incidents. Fails to deploy while Sentinel may not start the playbook, which
// scripts/grant_permissions.py lets it: one right has one owner, or Azure refuses the second assignment.
targetScope = 'resourceGroup'

@description('Name of the workspace.')
param workspaceName string

@description('ARM id of the playbook.')
param playbookId string

@description('The tenant the playbook lies in.')
param tenantId string

@description('Whether the rule runs.')
param enabled bool

var rules = loadJsonContent('../sentinel/rules.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

var ruleIds = [
  for rule in rules: extensionResourceId(workspace.id, 'Microsoft.SecurityInsights/alertRules', rule.name)
]

resource runPlaybook 'Microsoft.SecurityInsights/automationRules@2025-09-01' = {
  scope: workspace
  name: guid(workspace.id, playbookId)
  properties: {
    displayName: 'Agentbreaker: hand over incidents of its rules'
    order: 100
    triggeringLogic: {
      isEnabled: enabled
      triggersOn: 'Incidents'
      triggersWhen: 'Created'
      conditions: [
        {
          conditionType: 'Property'
          conditionProperties: {
            propertyName: 'IncidentRelatedAnalyticRuleIds'
            operator: 'Contains'
            propertyValues: ruleIds
          }
        }
      ]
    }
    actions: [
      {
        order: 1
        actionType: 'RunPlaybook'
        actionConfiguration: {
          logicAppResourceId: playbookId
          tenantId: tenantId
        }
      }
    ]
  }
}
