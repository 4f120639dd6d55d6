import type { ApiRequest } from './client.ts'

/** The state of the node that answered. */
export interface VaultHealth {
  readonly initialized: boolean
  readonly sealed: boolean
  readonly standby: boolean
  readonly version: string
  readonly state: NodeState
}

export type NodeState = 'active' | 'standby' | 'performance standby' | 'disaster recovery secondary' | 'sealed' | 'uninitialized'

/** Asks for every state as a good answer: the fields tell which one it is. */
export const askForHealth: ApiRequest = {
  method: 'GET',
  path: 'sys/health',
  query: {
    standbycode: '200',
    sealedcode: '200',
    uninitcode: '200',
    performancestandbycode: '200',
    drsecondarycode: '200',
  },
  inNamespace: false,
  idempotent: true,
}

interface HealthAnswer extends Omit<VaultHealth, 'state'> {
  readonly performance_standby?: boolean
  readonly replication_dr_mode?: string
}

export function readHealth(answer: unknown): VaultHealth {
  const health = answer as HealthAnswer
  const { initialized, sealed, standby, version } = health
  return { initialized, sealed, standby, version, state: stateOf(health) }
}

function stateOf(answer: HealthAnswer): NodeState {
  if (!answer.initialized) return 'uninitialized'
  if (answer.sealed) return 'sealed'
  if (answer.replication_dr_mode === 'secondary') return 'disaster recovery secondary'
  if (answer.performance_standby === true) return 'performance standby'
  return answer.standby ? 'standby' : 'active'
}
