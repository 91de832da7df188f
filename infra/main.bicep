// Agentbreaker beside a Microsoft Sentinel workspace that exists. Deploy with azd: docs/deploy.md.
//
// Two resource groups are made, because who may change the playbook is not to be able to change the app. What belongs to
// the workspace (tables, rules, watchlist) goes into its group. Nothing here gives rights in Microsoft Graph and
// nothing makes a Conditional Access policy: both need other people's consent and have commands of their own.
targetScope = 'subscription'

// --- where ---------------------------------------------------------------------------------------

@description('Name of this environment, part of every name.')
@minLength(1)
@maxLength(32)
param environmentName string

@description('Azure region of app and playbook.')
param location string

@description('Name of the Log Analytics workspace with Microsoft Sentinel, in this subscription.')
param workspaceName string

@description('Resource group of that workspace.')
param workspaceResourceGroup string

@description('Resource group to make for the app.')
param appResourceGroup string = 'rg-agentbreaker-${environmentName}'

@description('Resource group to make for the playbook.')
param playbookResourceGroup string = 'rg-agentbreaker-playbook-${environmentName}'

@description('Whether both groups are locked against deletion.')
param lockGroups bool = true

// --- what it may do ------------------------------------------------------------------------------

@description('observe: decide and record, touch nothing. approve: automatic findings wait for a person. enforce: contain.')
@allowed([
  'observe'
  'approve'
  'enforce'
])
param mode string = 'observe'

@description('Modes of single rules, AG-07=observe,AG-08=approve. The more careful of rule and global mode wins.')
param ruleModes string = ''

@description('Rules that are not swept, for tables that the workspace does not have: AG-27,AG-23.')
param rulesOff string = ''

@description('Object ids never contained, separated by commas, or the word none. Empty: nothing is contained at all.')
param protectedPrincipals string = ''

@description('Object ids of the deployer and other parts of this system. App and playbook are added by themselves.')
param ownPrincipals string[] = []

@description('Automatic containments in any 60 minutes; more wait for a person.')
@minValue(0)
@maxValue(1000)
param automaticPerHour int = 3

@description('Automatic containments in any 24 hours.')
@minValue(0)
@maxValue(10000)
param automaticPerDay int = 10

@description('Whether agent identities are confirmed through Graph beta (IdentityRiskyAgent.ReadWrite.All).')
param agentRisk bool = false

@description('Lever disable-principal. off: never. approval: a second person approves. automatic: like any other.')
@allowed([
  'off'
  'approval'
  'automatic'
])
param disablePrincipal string = 'off'

@description('Whether people may order credentials, app roles and grants taken away; two others approve each.')
param removalLevers bool = false

@description('What happens to what waits longer than its time. leave: nothing. contain: what enforce would have contained.')
@allowed([
  'leave'
  'contain'
])
param onExpiry string = 'leave'

@description('Who may send signals: NAME=CALLER-OBJECT-ID[:corroborated|alone[:PER-MINUTE]], separated by commas.')
param signalSources string = ''

@description('GUIDs of further analytics rules whose incidents may contain without a person, separated by commas.')
param trustedAnalyticsRules string = ''

@description('Further settings by full name (docs/settings.md). Those that have a parameter here cannot be changed with it.')
param otherSettings object = {}

// --- who may call --------------------------------------------------------------------------------

@description('Client id of the app registration Agentbreaker API. Empty on the first run: every call is refused, no playbook.')
param apiClientId string = ''

@description('Object ids of people and applications that may call; each needs an app role too. The playbook is added.')
param callerObjectIds string[] = []

@description('Object ids of groups whose members may call; each needs an app role too.')
param callerGroupIds string[] = []

@description('Client ids of applications that callers may use. The playbook is added.')
param callerClientIds string[] = []

@description('Address ranges (CIDR) that may call the app; empty for any. Logic Apps may always.')
param allowedIpRanges string[] = []

@description('Address ranges (CIDR) from which the playbook\'s run histories may be read. The default lets nobody.')
param runHistoryRanges string[] = [
  '127.0.0.1/32'
]

// --- Sentinel ------------------------------------------------------------------------------------

@description('Whether Sentinel runs the analytics rules. They make incidents only; the app runs the same rules itself.')
param analyticsRulesEnabled bool = true

@description('create: make the watchlist AgentInventory. keep: leave it as people wrote it; azure.yaml sets this after the first run.')
@allowed([
  'create'
  'keep'
])
param inventory string = 'create'

@description('Days for which the ledger\'s copy is kept in the workspace.')
@minValue(90)
@maxValue(730)
param auditRetentionDays int = 730

@description('First day of the daily baselines, as 2026-11-27; azure.yaml writes it once, so that every deployment says the same.')
param firstBinDay string = ''

@description('The day of the deployment. Not to be given.')
param today string = utcNow('yyyy-MM-dd')

@description('Days for which baselines are kept.')
@minValue(30)
@maxValue(730)
param baselineRetentionDays int = 90

// --- who is told ---------------------------------------------------------------------------------

@description('Addresses mailed by alerts.')
param alertEmailAddresses string[] = []

@description('Whether alerts are evaluated.')
param alertsEnabled bool = true

@description('Send the subscription\'s activity log (Administrative) to the workspace. Only where nothing does yet: every row would come twice.')
param exportActivityLog bool = false

@description('Vault with the secrets agentbreaker-webhook-url and agentbreaker-webhook-secret; empty for no webhook.')
param webhookVaultName string = ''

@description('Resource group of that vault, in this subscription.')
param webhookVaultResourceGroup string = ''

// --- how it runs ---------------------------------------------------------------------------------

@description('Instances kept warm for HTTP. Costs while idle; 0 lets a playbook wait for a start.')
@minValue(0)
@maxValue(20)
param alwaysReady int = 1

@description('Most instances of each group of functions.')
@minValue(40)
@maxValue(1000)
param maximumInstances int = 40

@description('Memory of an instance in MB.')
@allowed([
  512
  2048
  4096
])
param instanceMemory int = 2048

@description('Calls that one instance answers at the same time.')
@minValue(1)
@maxValue(100)
param httpConcurrency int = 16

@description('Copies of storage: Standard_ZRS in three zones, Standard_LRS where the region has none.')
@allowed([
  'Standard_ZRS'
  'Standard_LRS'
])
param storageRedundancy string = 'Standard_ZRS'

@description('Subnet for the app\'s outgoing calls, delegated to Microsoft.App/environments; empty for none.')
param integrationSubnetId string = ''

@description('Subnet for private endpoints of storage, reachable from integrationSubnetId; empty: storage has a public address.')
param privateEndpointSubnetId string = ''

@description('Private DNS zone privatelink.blob.*, linked to the network. Wanted with privateEndpointSubnetId.')
param blobZoneId string = ''

@description('Private DNS zone privatelink.table.*, linked to the network. Wanted with privateEndpointSubnetId.')
param tableZoneId string = ''

@description('Private DNS zone privatelink.queue.*, linked to the network. Wanted with privateEndpointSubnetId.')
param queueZoneId string = ''

var suffix = uniqueString(subscription().id, environmentName, location)
var tags = {
  'azd-env-name': environmentName
}
// Also where integrationSubnetId was forgotten: the app then cannot reach its storage, which is seen; a public one is not.
var privateStorage = !empty(privateEndpointSubnetId)
var packageContainer = 'package'
var storeTable = 'agentbreaker'
var playbookName = 'logic-agentbreaker-${suffix}'
var withPlaybook = !empty(apiClientId)

module groups 'modules/resource-groups.json' = {
  // A deployment to a subscription belongs to one region: another environment's has another name.
  name: 'agentbreaker-groups-${suffix}'
  params: {
    names: [
      appResourceGroup
      playbookResourceGroup
    ]
    location: location
    tags: tags
  }
}

module workspace 'modules/workspace.bicep' = {
  name: 'agentbreaker-workspace'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    workspaceName: workspaceName
  }
}

module identity 'modules/identity.bicep' = {
  name: 'agentbreaker-identity'
  scope: resourceGroup(appResourceGroup)
  params: {
    name: 'id-agentbreaker-${suffix}'
    location: location
    tags: tags
  }
  dependsOn: [
    groups
  ]
}

module playbookIdentity 'modules/identity.bicep' = {
  name: 'agentbreaker-playbook-identity'
  scope: resourceGroup(playbookResourceGroup)
  params: {
    name: 'id-agentbreaker-playbook-${suffix}'
    location: location
    tags: tags
  }
  dependsOn: [
    groups
  ]
}

// --- storage and telemetry -----------------------------------------------------------------------

module hostStorage 'modules/storage.bicep' = {
  name: 'agentbreaker-host-storage'
  scope: resourceGroup(appResourceGroup)
  params: {
    name: 'sthost${suffix}'
    location: location
    tags: tags
    containerName: packageContainer
    privateOnly: privateStorage
    redundancy: storageRedundancy
    workspaceId: workspace.outputs.id
  }
  dependsOn: [
    groups
  ]
}

module stateStorage 'modules/storage.bicep' = {
  name: 'agentbreaker-state-storage'
  scope: resourceGroup(appResourceGroup)
  params: {
    name: 'ststate${suffix}'
    location: location
    tags: tags
    tableName: storeTable
    privateOnly: privateStorage
    redundancy: storageRedundancy
    workspaceId: workspace.outputs.id
  }
  dependsOn: [
    groups
  ]
}

module privateEndpoints 'modules/private-endpoints.json' = if (privateStorage) {
  name: 'agentbreaker-private-endpoints'
  scope: resourceGroup(appResourceGroup)
  params: {
    location: location
    tags: tags
    subnetId: privateEndpointSubnetId
    endpoints: [
      {
        name: 'pe-host-blob-${suffix}'
        serviceId: hostStorage.outputs.id
        groupId: 'blob'
        zoneId: blobZoneId
      }
      {
        name: 'pe-host-queue-${suffix}'
        serviceId: hostStorage.outputs.id
        groupId: 'queue'
        zoneId: queueZoneId
      }
      {
        name: 'pe-host-table-${suffix}'
        serviceId: hostStorage.outputs.id
        groupId: 'table'
        zoneId: tableZoneId
      }
      {
        name: 'pe-state-table-${suffix}'
        serviceId: stateStorage.outputs.id
        groupId: 'table'
        zoneId: tableZoneId
      }
    ]
  }
}

module insights 'modules/insights.bicep' = {
  name: 'agentbreaker-insights'
  scope: resourceGroup(appResourceGroup)
  params: {
    name: 'appi-agentbreaker-${suffix}'
    location: location
    tags: tags
    workspaceId: workspace.outputs.id
  }
  dependsOn: [
    groups
  ]
}

// --- the workspace's part ------------------------------------------------------------------------

module audit 'modules/audit.bicep' = {
  name: 'agentbreaker-audit'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    workspaceName: workspaceName
    retentionDays: auditRetentionDays
  }
}

module auditRule 'modules/audit-rule.bicep' = {
  name: 'agentbreaker-audit-rule'
  scope: resourceGroup(appResourceGroup)
  params: {
    name: 'dcr-agentbreaker-${suffix}'
    location: workspace.outputs.location
    tags: tags
    workspaceId: workspace.outputs.id
  }
  dependsOn: [
    groups
    audit
  ]
}

module baselines 'modules/baselines.bicep' = {
  name: 'agentbreaker-baselines'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    workspaceName: workspaceName
    retentionDays: baselineRetentionDays
    firstDay: empty(firstBinDay) ? today : firstBinDay
  }
}

module inventoryWatchlist 'modules/inventory.bicep' = if (inventory == 'create') {
  name: 'agentbreaker-inventory'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    workspaceName: workspaceName
  }
}

// After the tables that the rules name: Sentinel parses a query when the rule is made.
module analyticsRules 'modules/analytics-rules.bicep' = {
  name: 'agentbreaker-analytics-rules'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    workspaceName: workspaceName
    enabled: analyticsRulesEnabled
  }
  dependsOn: [
    audit
    baselines
    inventoryWatchlist
  ]
}

// What AG-19 and the alert settings-changed read.
resource activityLog 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (exportActivityLog) {
  name: 'agentbreaker-activity-log'
  properties: {
    workspaceId: workspace.outputs.id
    logs: [
      {
        category: 'Administrative'
        enabled: true
      }
    ]
  }
}

module workbook 'modules/workbook.bicep' = {
  name: 'agentbreaker-workbook'
  scope: resourceGroup(appResourceGroup)
  params: {
    location: location
    tags: tags
    workspaceId: workspace.outputs.id
  }
  dependsOn: [
    groups
  ]
}

module alerts 'modules/alerts.bicep' = {
  name: 'agentbreaker-alerts'
  scope: resourceGroup(appResourceGroup)
  params: {
    location: workspace.outputs.location
    tags: tags
    workspaceId: workspace.outputs.id
    emailAddresses: alertEmailAddresses
    ledgerAccount: stateStorage.outputs.name
    appPrincipalId: identity.outputs.principalId
    enabled: alertsEnabled
  }
  dependsOn: [
    groups
    audit
  ]
}

// --- rights of the app: each file says which lever or function it serves -------------------------

module hostBlobs 'roles/host-blobs.bicep' = {
  name: 'agentbreaker-role-host-blobs'
  scope: resourceGroup(appResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    accountName: hostStorage.outputs.name
  }
}

module hostDiagnostics 'roles/host-diagnostics.bicep' = {
  name: 'agentbreaker-role-host-diagnostics'
  scope: resourceGroup(appResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    accountName: hostStorage.outputs.name
  }
}

module stateTable 'roles/state-table.bicep' = {
  name: 'agentbreaker-role-state-table'
  scope: resourceGroup(appResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    accountName: stateStorage.outputs.name
    tableName: storeTable
  }
}

module auditPublisher 'roles/audit-publisher.bicep' = {
  name: 'agentbreaker-role-audit-publisher'
  scope: resourceGroup(appResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    ruleName: auditRule.outputs.name
  }
}

module telemetryPublisher 'roles/telemetry-publisher.bicep' = {
  name: 'agentbreaker-role-telemetry-publisher'
  scope: resourceGroup(appResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    componentName: insights.outputs.name
  }
}

module logsReader 'roles/logs-reader.bicep' = {
  name: 'agentbreaker-role-logs-reader'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    workspaceName: workspaceName
  }
}

module incidentCommenter 'roles/incident-commenter.bicep' = {
  name: 'agentbreaker-role-incident-commenter'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    workspaceName: workspaceName
  }
}

module playbookTrigger 'roles/playbook-trigger.bicep' = {
  name: 'agentbreaker-role-playbook-trigger'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    principalId: playbookIdentity.outputs.principalId
    workspaceName: workspaceName
  }
}

module webhookSecrets 'roles/webhook-secrets.bicep' = if (!empty(webhookVaultName)) {
  name: 'agentbreaker-role-webhook-secrets'
  scope: resourceGroup(empty(webhookVaultResourceGroup) ? workspaceResourceGroup : webhookVaultResourceGroup)
  params: {
    principalId: identity.outputs.principalId
    vaultName: webhookVaultName
  }
}

// --- the app -------------------------------------------------------------------------------------

var vaultUrl = 'https://${webhookVaultName}${environment().suffixes.keyvaultDns}/secrets'
var settings = union(otherSettings, {
  AzureWebJobsStorage__blobServiceUri: hostStorage.outputs.blobEndpoint
  AzureWebJobsStorage__queueServiceUri: hostStorage.outputs.queueEndpoint
  AzureWebJobsStorage__tableServiceUri: hostStorage.outputs.tableEndpoint
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identity.outputs.clientId
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.outputs.connectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identity.outputs.clientId};Authorization=AAD'
  PYTHON_ENABLE_OPENTELEMETRY: 'true'
  AGENTBREAKER_MODE: mode
  AGENTBREAKER_RULE_MODES: ruleModes
  AGENTBREAKER_RULES_OFF: rulesOff
  AGENTBREAKER_TENANT_ID: subscription().tenantId
  AGENTBREAKER_WORKSPACE_ID: workspace.outputs.customerId
  AGENTBREAKER_WORKSPACE_RESOURCE_ID: workspace.outputs.id
  AGENTBREAKER_PROTECTED_PRINCIPALS: protectedPrincipals
  AGENTBREAKER_OWN_PRINCIPALS: join(
    concat([identity.outputs.principalId, playbookIdentity.outputs.principalId], ownPrincipals),
    ','
  )
  AGENTBREAKER_AUTOMATIC_PER_HOUR: string(automaticPerHour)
  AGENTBREAKER_AUTOMATIC_PER_DAY: string(automaticPerDay)
  AGENTBREAKER_AGENT_RISK: agentRisk ? 'true' : 'false'
  AGENTBREAKER_DISABLE_PRINCIPAL: disablePrincipal
  AGENTBREAKER_REMOVAL_LEVERS: removalLevers ? 'true' : 'false'
  AGENTBREAKER_ON_EXPIRY: onExpiry
  AGENTBREAKER_SIGNAL_SOURCES: signalSources
  AGENTBREAKER_WEBHOOK_URL: empty(webhookVaultName) ? '' : '@Microsoft.KeyVault(SecretUri=${vaultUrl}/agentbreaker-webhook-url)'
  AGENTBREAKER_WEBHOOK_SECRET: empty(webhookVaultName) ? '' : '@Microsoft.KeyVault(SecretUri=${vaultUrl}/agentbreaker-webhook-secret)'
  AGENTBREAKER_AUDIT_ENDPOINT: auditRule.outputs.endpoint
  AGENTBREAKER_AUDIT_RULE_ID: auditRule.outputs.immutableId
  AGENTBREAKER_AUDIT_STREAM: 'Custom-AgentbreakerAudit_CL'
  AGENTBREAKER_TRUSTED_ANALYTICS_RULES: trustedAnalyticsRules
  AGENTBREAKER_STORE: '${stateStorage.outputs.tableEndpoint}${storeTable}'
  AGENTBREAKER_CLIENT_ID: identity.outputs.clientId
  // The host needs every schedule written: function_app.py refers to them by name.
  AGENTBREAKER_SWEEP_FAST_SCHEDULE: '0 * * * * *'
  AGENTBREAKER_SWEEP_SCHEDULE: '0 */5 * * * *'
  AGENTBREAKER_SWEEP_BASELINE_SCHEDULE: '0 12 * * * *'
  AGENTBREAKER_SWEEP_DORMANT_SCHEDULE: '0 30 4 * * *'
  AGENTBREAKER_SETTLE_SCHEDULE: '*/30 * * * * *'
})

module app 'modules/app.bicep' = {
  name: 'agentbreaker-app'
  scope: resourceGroup(appResourceGroup)
  params: {
    name: 'func-agentbreaker-${suffix}'
    planName: 'plan-agentbreaker-${suffix}'
    location: location
    tags: union(tags, {
      'azd-service-name': 'api'
    })
    identityId: identity.outputs.id
    packageContainerUrl: '${hostStorage.outputs.blobEndpoint}${packageContainer}'
    settings: settings
    alwaysReady: alwaysReady
    maximumInstances: maximumInstances
    instanceMemory: instanceMemory
    httpConcurrency: httpConcurrency
    integrationSubnetId: integrationSubnetId
    allowedIpRanges: allowedIpRanges
    tenantId: subscription().tenantId
    apiClientId: apiClientId
    callerObjectIds: concat([playbookIdentity.outputs.principalId], callerObjectIds)
    callerGroupIds: callerGroupIds
    callerClientIds: concat([playbookIdentity.outputs.clientId], callerClientIds)
  }
  // It would start without its rights and fail until they are there.
  dependsOn: [
    hostBlobs
    hostDiagnostics
    stateTable
    auditPublisher
    telemetryPublisher
    logsReader
    incidentCommenter
    webhookSecrets
    privateEndpoints
  ]
}

// --- the playbook --------------------------------------------------------------------------------

module playbook 'modules/playbook.bicep' = if (withPlaybook) {
  name: 'agentbreaker-playbook'
  scope: resourceGroup(playbookResourceGroup)
  params: {
    name: playbookName
    location: location
    tags: tags
    identityId: playbookIdentity.outputs.id
    appHost: app.outputs.host
    audience: 'api://${apiClientId}'
    runHistoryRanges: runHistoryRanges
  }
  dependsOn: [
    playbookTrigger
  ]
}

module automationRule 'modules/automation-rule.bicep' = if (withPlaybook) {
  name: 'agentbreaker-automation-rule'
  scope: resourceGroup(workspaceResourceGroup)
  params: {
    workspaceName: workspaceName
    playbookId: resourceId(subscription().subscriptionId, playbookResourceGroup, 'Microsoft.Logic/workflows', playbookName)
    tenantId: subscription().tenantId
    enabled: true
  }
  dependsOn: [
    playbook
    analyticsRules
  ]
}

// --- last, so that a run that fails half-way can be taken away again ------------------------------

module appLock 'modules/lock.bicep' = if (lockGroups) {
  name: 'agentbreaker-app-lock'
  scope: resourceGroup(appResourceGroup)
  dependsOn: [
    app
    alerts
    workbook
  ]
}

module playbookLock 'modules/lock.bicep' = if (lockGroups) {
  name: 'agentbreaker-playbook-lock'
  scope: resourceGroup(playbookResourceGroup)
  dependsOn: [
    playbook
    playbookIdentity
  ]
}

@description('Where azd deploys to: two groups carry its tag.')
output AZURE_RESOURCE_GROUP string = appResourceGroup

@description('Host name of the app.')
output AGENTBREAKER_HOST string = app.outputs.host

@description('Name of the function app.')
output AGENTBREAKER_APP_NAME string = app.outputs.name

@description('Object id of the app\'s identity: scripts/grant_permissions.py gives it its rights in Microsoft Graph.')
output AGENTBREAKER_APP_PRINCIPAL_ID string = identity.outputs.principalId

@description('Object id of the playbook\'s identity: it needs the app role Incident.Submit.')
output AGENTBREAKER_PLAYBOOK_PRINCIPAL_ID string = playbookIdentity.outputs.principalId

@description('Resource group of the playbook.')
output AGENTBREAKER_PLAYBOOK_RESOURCE_GROUP string = playbookResourceGroup

@description('Client id of the app\'s identity, for scripts/grant_permissions.py.')
output AGENTBREAKER_APP_CLIENT_ID string = identity.outputs.clientId

@description('ARM id of the playbook\'s group, for scripts/grant_permissions.py.')
output AGENTBREAKER_PLAYBOOK_GROUP_ID string = '${subscription().id}/resourceGroups/${playbookResourceGroup}'

@description('This tenant, for scripts/grant_permissions.py.')
output AZURE_TENANT_ID string = subscription().tenantId
