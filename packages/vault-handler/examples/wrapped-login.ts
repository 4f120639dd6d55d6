// Logs in with a role id and a wrapped secret id, as a deployment hands them over, and keeps what it reads for five minutes;
// for an hour while the vault is away. The wrapping token works once:
//   vault write -wrap-ttl=60s -field=wrapping_token -f auth/approle/role/app/secret-id > wrapped
//   VAULT_ADDR=http://127.0.0.1:8200 node wrapped-login.ts <role id> wrapped secret/app
import { VaultHandler } from '@common-handlers/vault-handler'

const [roleId = '', secretIdWrappedFile = 'wrapped', path = 'secret/app'] = process.argv.slice(2)

await using vault = VaultHandler.fromEnvironment({
  appRole: { roleId, secretIdWrappedFile },
  cache: { ttlMs: 300_000, staleIfErrorMs: 3_600_000 },
})
for (const round of ['read', 'from the cache']) {
  console.log(`${round}: ${Object.keys(await vault.getSecret(path)).join(', ')}`)
}
const { policies, ttlMs } = await vault.token.lookup()
console.log(`policies: ${policies.join(', ')}; the token is renewed within ${Math.round(ttlMs / 60_000)} minutes`)
