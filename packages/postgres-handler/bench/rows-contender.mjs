// One contender of rows.bench.ts in a process of its own, as it is installed: plain JavaScript, the package built.
//   POSTGRES_URL=postgres://… node bench/rows-contender.mjs <contender> rows|queries <rows> <queries>
// Prints what it measured as JSON.

const url = process.env.POSTGRES_URL
const BATCH = 1_000
const CALLERS = 10
const all = 'SELECT * FROM bench_audit_log'
const byId = 'SELECT * FROM bench_audit_log WHERE id = $1'
const INT8 = 20
const asText = (value) => value

const contenders = {
  handler: async () => {
    const { PostgresHandler } = await import('@common-handlers/postgres-handler')
    const handler = new PostgresHandler({ url })
    return {
      rows: async () => {
        let count = 0
        for await (const row of handler.stream(all, [], { batchRows: BATCH })) if (row.id > 0n) count++
        return count
      },
      query: (id) => handler.getRecords(byId, [id]),
      end: () => handler.close(),
    }
  },
  pg: async () => {
    const { default: pg } = await import('pg')
    const { default: Cursor } = await import('pg-cursor')
    const types = { getTypeParser: (oid) => (oid === INT8 ? BigInt : asText) }
    const pool = new pg.Pool({ connectionString: url, types, max: 10 })
    return {
      rows: async () => {
        let count = 0
        const client = await pool.connect()
        const cursor = client.query(new Cursor(all, [], { types }))
        for (let rows = await cursor.read(BATCH); rows.length > 0; rows = await cursor.read(BATCH)) {
          for (const row of rows) if (row.id > 0n) count++
        }
        await cursor.close()
        client.release()
        return count
      },
      query: (id) => pool.query(byId, [id]),
      end: () => pool.end(),
    }
  },
  'postgres.js': async () => {
    const { default: postgres } = await import('postgres')
    const text = { to: 25, from: [114, 869, 1082, 1114, 1184, 2950, 3802], serialize: asText, parse: asText }
    const client = postgres(url, { max: 10, types: { bigint: postgres.BigInt, text }, onnotice: () => undefined })
    return {
      rows: async () => {
        let count = 0
        for await (const rows of client.unsafe(all).cursor(BATCH)) for (const row of rows) if (row.id > 0n) count++
        return count
      },
      query: (id) => client.unsafe(byId, [id], { prepare: true }),
      end: () => client.end(),
    }
  },
}

const [name, what, rows, queries] = [process.argv[2], process.argv[3], Number(process.argv[4]), Number(process.argv[5])]
const contender = await contenders[name]()

async function perSecond(count, work) {
  const start = performance.now()
  await work()
  return count / ((performance.now() - start) / 1000)
}

async function ask(count, offset) {
  for (let n = 0; n < count; n++) await contender.query(1 + ((offset + n * 7919) % rows))
}

async function readRows() {
  await contender.rows()
  const cpu = process.cpuUsage()
  const rowsPerSecond = await perSecond(rows, async () => {
    if ((await contender.rows()) !== rows) throw new Error(`${name} has not read every row`)
  })
  const { user, system } = process.cpuUsage(cpu)
  return { rowsPerSecond, cpuPerRow: (user + system) / rows, rss: process.resourceUsage().maxRSS / 1024 }
}

async function askQueries() {
  const together = (count) => Promise.all(Array.from({ length: CALLERS }, (_, caller) => ask(count, caller * 104_729)))
  // Until it is compiled.
  await ask(2_000, 0)
  await together(200)
  const cpu = process.cpuUsage()
  const queriesPerSecond = await perSecond(queries, () => together(queries / CALLERS))
  const { user, system } = process.cpuUsage(cpu)
  const alonePerSecond = await perSecond(queries / 4, () => ask(queries / 4, 0))
  return { queriesPerSecond, cpuPerQuery: (user + system) / queries, alonePerSecond }
}

console.log(JSON.stringify(what === 'rows' ? await readRows() : await askQueries()))
await contender.end()
