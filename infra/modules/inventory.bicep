// The watchlist AgentInventory (docs/rules.md). It says what is expected of an agent, which can keep some rules silent about it.
// Deployed once: whether deploying it again leaves rows that people wrote alone is not known.
targetScope = 'resourceGroup'

@description('Name of the workspace.')
param workspaceName string

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource inventory 'Microsoft.SecurityInsights/watchlists@2025-09-01' = {
  scope: workspace
  name: 'AgentInventory'
  properties: {
    displayName: 'AgentInventory'
    description: 'What AI agents are there for: role, declared resources, announced changes. Read by Agentbreaker.'
    provider: 'Agentbreaker'
    watchlistAlias: 'AgentInventory'
    source: 'agent-inventory.csv'
    sourceType: 'Local'
    contentType: 'text/csv'
    numberOfLinesToSkip: 0
    // Not SearchKey: the function _GetWatchlist gives a column of that name by itself, out of this one.
    itemsSearchKey: 'ObjectId'
    rawContent: loadTextContent('../sentinel/agent-inventory.csv')
  }
}
