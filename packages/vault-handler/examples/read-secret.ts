// Reads one secret and prints what may be printed of it.
//   VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=… node read-secret.ts secret/postgres/db
import { VaultHandler } from '@common-handlers/vault-handler'

const [path = 'secret/postgres/db'] = process.argv.slice(2)

await using vault = VaultHandler.fromEnvironment()
const secrets = await vault.getSecret(path)
console.log(`${path} has the fields ${Object.keys(secrets).join(', ')}`)

const password = await vault.resolve(`${path}#password`)
console.log(`the password has ${password.length} characters`)

try {
  await vault.resolve(`${path}#pasword`)
} catch (error) {
  console.log(String(error))
}
