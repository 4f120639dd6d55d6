/* oxlint-disable no-console, typescript/no-base-to-string -- printing is what it is for */
// A process of its own, so that DEBUG is set from its start. It prints everything a careless program might.
import { inspect } from 'node:util'
import { VaultHandler } from '@common-handlers/vault-handler'

const planted = JSON.parse(process.env['PLANTED'] ?? '{}') as Record<string, string>
const plant = (name: string): string => planted[name] ?? name
const address = plant('address')
const renewalFailed = Promise.withResolvers<void>()
const logger = {
  trace: console.log,
  debug: console.log,
  info: console.log,
  warn: (...parts: readonly unknown[]) => {
    console.log(...parts)
    if (parts.includes('vault token could not be kept alive')) renewalFailed.resolve()
  },
  error: console.log,
  child: () => logger,
}

async function show(work: () => Promise<unknown>, printResult = false): Promise<void> {
  try {
    const result = await work()
    if (printResult) console.log(inspect(result, { depth: 20 }))
  } catch (error) {
    console.log(inspect(error, { depth: 20, showHidden: true }), JSON.stringify(error), String(error), (error as Error).stack)
    for (let cause = (error as Error).cause; cause instanceof Error; cause = cause.cause) {
      console.log(inspect(cause, { depth: 20, showHidden: true }), JSON.stringify(cause), cause.stack)
    }
  }
}

const retry = { attempts: 2, baseDelayMs: 1 }
const vault = new VaultHandler({ address, token: plant('token'), retry, logger })
const { mount = '' } = planted
const data = Object.fromEntries(Object.entries(planted).filter(([name]) => name.startsWith('value')))
await show(() => vault.request('POST', `${mount}/data/app`, { body: { data } }))
await show(() => vault.request('POST', `${mount}/data/app`, { body: { data, options: { cas: 99 } } }))
await show(() => vault.request('POST', `${mount}/config/app`, { body: data }))
await show(() => vault.request('POST', `${mount}/data/app`, { body: { data: plant('value1') } }))
await show(() => vault.getSecret(`${mount}/app`))
await show(() => vault.resolve(`${mount}/app#none`))
await show(() => vault.getSecret(`${mount}/none`))
await show(() => vault.check(), true)
await show(() => vault.kv.put(`${mount}/app`, data))
await show(() => vault.kv.patch(`${mount}/app`, { value2: plant('value2') }))
await show(() => vault.kv.put(`${mount}/app`, data, { cas: 99 }))
await show(() => vault.transit('none').encrypt('key', plant('value3')))
await show(() => vault.wrapping.unwrap(plant('wrappedSecretId')))
await show(() => vault.token.lookup(), true)
await show(() => vault.token.renew())
console.log(inspect(vault, { depth: 20, showHidden: true }), JSON.stringify(vault), String(vault))

// A cache that must give out what is old, because the server fails from now on.
const caching = new VaultHandler({
  address,
  token: plant('token'),
  retry: { attempts: 1 },
  logger,
  cache: { ttlMs: 1, staleIfErrorMs: 60_000 },
})
await show(() => caching.getSecret(`${mount}/app`))
await show(() => vault.request('GET', 'sys/seal-status'))
await show(() => vault.getSecret(`${mount}/app`))
await show(() => caching.getSecret(`${mount}/app`))
console.log(inspect(caching, { depth: 20, showHidden: true }), JSON.stringify(caching))
await caching.close()
await vault.close()

// A token whose renewals fail.
const renewing = new VaultHandler({ address, token: plant('shortToken'), retry: { attempts: 1 }, logger })
await show(() => renewing.connect())
// The timers of a handler do not keep the process alive.
const alive = setInterval(() => undefined, 1_000)
await renewalFailed.promise
clearInterval(alive)
await renewing.close()

const roleId = plant('roleId')
const logins = [
  { appRole: { roleId, secretId: plant('secretId') } },
  { userpass: { username: 'joe', password: plant('password') } },
  { jwt: { role: 'ci', jwt: plant('jwt') } },
  { token: plant('deadToken') },
  { appRole: { roleId, secretIdWrapped: plant('wrappedSecretId') } },
  {
    aws: {
      credentials: async () => ({
        accessKeyId: 'AKIDEXAMPLE',
        secretAccessKey: plant('awsKey'),
        sessionToken: plant('awsSession'),
      }),
    },
  },
  { token: plant('token'), proxy: `http://joe:${plant('proxyPassword')}@127.0.0.1:1` },
]
for (const way of logins) {
  // A server that refuses, a port where nobody listens, a name nobody knows.
  for (const to of [address, 'http://127.0.0.1:1', 'http://no-such-host.invalid']) {
    const one = new VaultHandler({ address: to, retry, logger, ...way })
    await show(() => one.connect())
    await show(() => one.getSecret(`${mount}/app`))
    await show(() => one.request('POST', `${mount}/data/app`, { body: { data } }))
    await show(() => one.check(), true)
    console.log(inspect(one, { depth: 20, showHidden: true }))
    await one.close()
  }
}
console.log('the end')
