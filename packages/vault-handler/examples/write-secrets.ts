// Writes a secret, changes it, hands it on as a token that works once, and takes it away again.
//   VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=… node write-secrets.ts secret/shop
import { VaultHandler } from '@common-handlers/vault-handler'

const [folder = 'secret/shop'] = process.argv.slice(2)

await using vault = VaultHandler.fromEnvironment()
const { kv, wrapping } = vault

await kv.put(`${folder}/stripe key#1`, { key: 'a key that nobody sees', retries: 3 }, { cas: 0 })
await kv.patch(`${folder}/stripe key#1`, { retries: null, region: 'eu' })

// Ten at once: each sees what the one before it wrote.
await Promise.all(
  Array.from({ length: 10 }, () => kv.update(`${folder}/deploys`, (current) => ({ count: Number(current?.['count'] ?? 0) + 1 }))),
)

for await (const path of kv.list(folder, { recursive: true })) {
  const { data, version } = await kv.get(path)
  console.log(`${path} is at version ${version} and has ${Object.keys(data).join(', ')}`)
}
console.log(`deploys: ${await vault.resolve(`${folder}/deploys#count`)}`)

const { token } = await wrapping.wrap({ note: 'for your eyes only' }, 60_000)
console.log(`handing on ${token}`)
console.log((await wrapping.unwrap(token)).data)
try {
  await wrapping.unwrap(token)
} catch (error) {
  console.log((error as { code?: string }).code)
}

for await (const path of kv.list(folder)) await kv.deleteMetadata(path)
