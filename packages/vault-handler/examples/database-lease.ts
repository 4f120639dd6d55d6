// Holds credentials of the database engine while it works, and gives them back.
//   VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=… node database-lease.ts database/creds/app
import { VaultHandler } from '@common-handlers/vault-handler'

const [path = 'database/creds/app'] = process.argv.slice(2)

await using vault = VaultHandler.fromEnvironment()
await using lease = await vault.lease(path)
lease.on('renewed', () => console.log('renewed'))
lease.on('rotated', () => console.log('replaced'))
lease.on('lost', ({ error }) => console.log(`lost: ${error.code}`))

console.log(`it has the fields ${Object.keys(lease.value).toSorted().join(', ')}`)
console.log(`it is good for ${Math.round((lease.expiresAt - Date.now()) / 60_000)} minutes`)
await lease.renew()
