// The function app: Flex Consumption, Python, no keys, no publishing passwords, Easy Auth in front of everything.
targetScope = 'resourceGroup'

@description('Name of the app, part of its host name.')
param name string

@description('Name of the plan.')
param planName string

@description('Azure region.')
param location string

@description('Tags of the app; azd-service-name tells azd where to deploy to.')
param tags object

@description('ARM id of the identity that the app runs as.')
param identityId string

@description('URL of the blob container that holds the deployed package.')
param packageContainerUrl string

@description('All app settings by name.')
param settings object

@description('Instances kept warm for HTTP, so that a playbook does not wait for a start. Each costs while idle; 0 for none.')
@minValue(0)
@maxValue(20)
param alwaysReady int

@description('Most instances of each group of functions.')
@minValue(40)
@maxValue(1000)
param maximumInstances int

@description('Memory of an instance in MB.')
@allowed([
  512
  2048
  4096
])
param instanceMemory int

@description('Calls that one instance answers at the same time.')
@minValue(1)
@maxValue(100)
param httpConcurrency int

@description('ARM id of the subnet for outgoing calls, delegated to Microsoft.App/environments; empty for none.')
param integrationSubnetId string

@description('Address ranges (CIDR) that may call; empty for any. Logic Apps may call always, for the playbook.')
param allowedIpRanges string[]

@description('The tenant whose tokens are taken.')
param tenantId string

@description('Client id of the app registration Agentbreaker API. Empty: no token can be checked and every call is refused.')
param apiClientId string

@description('Object ids of callers that Easy Auth lets through to the check of app roles.')
param callerObjectIds string[]

@description('Object ids of groups of callers that Easy Auth lets through to the check of app roles.')
param callerGroupIds string[]

@description('Client ids of applications that callers may use.')
param callerClientIds string[]

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
  }
}

resource site 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: tags
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    sshEnabled: false
    // The playbook runs on Logic Apps Consumption, which reaches no private endpoint. Easy Auth is the door.
    publicNetworkAccess: 'Enabled'
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(integrationSubnetId) ? null : integrationSubnetId
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      ftpsState: 'Disabled'
      http20Enabled: true
      remoteDebuggingEnabled: false
      ipSecurityRestrictionsDefaultAction: empty(allowedIpRanges) ? 'Allow' : 'Deny'
      ipSecurityRestrictions: empty(allowedIpRanges) ? [] : concat(named, logicApps)
      appSettings: [
        for setting in items(settings): {
          name: setting.key
          value: setting.value
        }
      ]
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: packageContainerUrl
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: '3.13'
      }
      scaleAndConcurrency: {
        maximumInstanceCount: maximumInstances
        instanceMemoryMB: instanceMemory
        alwaysReady: alwaysReady == 0 ? [] : warm
        triggers: {
          http: {
            perInstanceConcurrency: httpConcurrency
          }
        }
      }
    }
  }
}

var warm = [
  {
    name: 'http'
    instanceCount: alwaysReady
  }
]
var named = [
  for (addresses, at) in allowedIpRanges: {
    name: 'caller-${at}'
    action: 'Allow'
    priority: 100 + at
    ipAddress: addresses
  }
]
var logicApps = [
  {
    name: 'playbook'
    action: 'Allow'
    priority: 1000
    tag: 'ServiceTag'
    ipAddress: 'LogicApps'
  }
]

resource noPublishingPassword 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: site
  name: 'scm'
  properties: {
    allow: false
  }
}

resource noFtpPassword 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: site
  name: 'ftp'
  properties: {
    allow: false
  }
}

// Authenticates; handlers/auth.py checks the app role of each call and refuses all of them while this is off.
resource auth 'Microsoft.Web/sites/config@2025-03-01' = {
  parent: site
  name: 'authsettingsV2'
  properties: {
    platform: {
      enabled: true
    }
    globalValidation: {
      requireAuthentication: true
      unauthenticatedClientAction: 'Return401'
      // Says only that the app lives.
      excludedPaths: [
        '/api/health'
      ]
    }
    httpSettings: {
      requireHttps: true
    }
    identityProviders: {
      azureActiveDirectory: {
        enabled: !empty(apiClientId)
        registration: {
          openIdIssuer: '${environment().authentication.loginEndpoint}${tenantId}/v2.0'
          clientId: apiClientId
        }
        validation: {
          // Never that of Azure Resource Manager: every identity of the tenant can get a token for it.
          allowedAudiences: [
            'api://${apiClientId}'
            apiClientId
          ]
          defaultAuthorizationPolicy: {
            allowedPrincipals: {
              identities: callerObjectIds
              groups: callerGroupIds
            }
            allowedApplications: callerClientIds
          }
        }
      }
    }
    login: {
      // Claim types are mapped only with the token store on (azure-docs, configure-authentication-user-identities).
      tokenStore: {
        enabled: true
      }
    }
  }
}

@description('Name of the app.')
output name string = site.name

@description('Host name of the app.')
output host string = site.properties.defaultHostName

@description('ARM id of the app.')
output id string = site.id
