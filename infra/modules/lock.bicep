// Nothing in the group is deleted by mistake, or by somebody who may delete but not take locks away.
targetScope = 'resourceGroup'

resource lock 'Microsoft.Authorization/locks@2020-05-01' = {
  name: 'agentbreaker-no-deletion'
  properties: {
    level: 'CanNotDelete'
    notes: 'Holds the circuit breaker of this tenant, its ledger or its playbook. docs/deploy.md says how it is taken away.'
  }
}
