import { describeWith, handlerConformance } from '@common-handlers/testkit'
import { VaultHandler, type VaultHandlerOptions } from '../src/index.ts'

describeWith(['openbao'], 'conformance', ({ openbao }) => {
  handlerConformance('VaultHandler', {
    prefix: 'VAULT',
    create: (options: VaultHandlerOptions) => new VaultHandler(options),
    options: { address: openbao.address, token: openbao.rootToken },
    at: (port) => ({ address: `http://127.0.0.1:${port}`, token: openbao.rootToken }),
    secret: openbao.rootToken,
    call: (vault, options) => vault.request('GET', 'auth/token/lookup-self', options),
  })
})
