import type { App, AppCommand, AppOption } from '@common-handlers/cli'
import type { CommandName } from './commands.ts'
import type { OutboxCliConfig, outboxCliConfigSchema } from './config.ts'
import { version } from './version.ts'

// What the program says of itself. What it does, and the driver with it, is loaded when a command runs.

type Command = AppCommand<OutboxCliConfig>

const url: AppOption = { flags: '--url <url>', description: 'the database; with a password rather in DATABASE_URL or OUTBOX_URL' }
const yes: AppOption = { flags: '--yes', description: 'do it; without it, only say what would be done' }
const choice: readonly AppOption[] = [
  { flags: '--ids <ids>', description: 'these: 12,15,19' },
  { flags: '--type <type>', description: 'those of this type' },
  { flags: '--reason <reason>', description: 'those that died of it: attempts, verdict, invalid, expired, crash' },
  { flags: '--older-than <time>', description: 'those that died so long ago: 90m, 24h, 7d' },
  { flags: '--all', description: 'all of them' },
]

const command = (name: CommandName, given: Omit<Command, 'name' | 'run'>): Command => ({
  ...given,
  name,
  options: [url, ...(given.options ?? [])],
  run: async (context) => (await import('./commands.ts')).run(name, context),
})

const commands: readonly Command[] = [
  command('migrate', {
    summary: 'make the schema, or bring it to the version of this program',
    help: `Makes the tables and functions of the outbox, or what is new of them. Can be run by several at the same time, and again:
what is there already is left alone. Needs the right to create a schema; workers and producers need less (see the README).

  outbox migrate --dry-run
  outbox migrate`,
    options: [{ flags: '--dry-run', description: 'say what would be done, and do nothing' }],
  }),
  command('work', {
    summary: 'take events and give them to their handlers, until it is stopped',
    help: `Imports the module, JavaScript or TypeScript as it is, and runs its handlers. Its default export is the handlers and, beside
them, any option of OutboxWorker:

  // outbox.config.ts
  export default {
    maxParallel: 20,
    handlers: { 'order.created': async (order: Order) => { … } },
  }

SIGTERM lets the handlers that run come to their end, as long as --grace says; what is not done by then is another worker's.
With --listen :9464 it serves /metrics and /healthz. With --processes 4 it keeps four processes alive, each with a worker, and replaces
one that dies or hangs; /metrics tells then what is in the outbox, and not what each worker does.

  outbox work ./outbox.config.ts
  outbox work ./outbox.config.ts --listen :9464 --grace 25s
  outbox work ./outbox.config.ts --processes 4`,
    arguments: [{ name: 'module', description: 'file whose default export is { handlers, … }' }],
    options: [
      { flags: '--grace <time>', description: 'how long running handlers may go on after SIGTERM: 10s (default)' },
      { flags: '--processes <count>', description: 'so many processes, each with a worker: 1 (default)' },
    ],
    lasting: true,
  }),
  command('stats', {
    summary: 'count what is in the outbox, and show who works',
    help: `Counts the events of each type by where they stand, its dead letters and blocked keys, the age of the oldest event, and
shows the workers that live. Reads the whole table of events: about half a second for a million.

  outbox stats
  outbox stats --json | jq '.types[] | select(.workers == 0)'`,
  }),
  command('list', {
    summary: 'list events and dead letters',
    help: `Lists them by id, without what they carry. Give the last id of a page to --after for the next one.

  outbox list --state dead --type mail.send
  outbox list --key 'order 7'`,
    options: [
      { flags: '--type <type>', description: 'those of this type' },
      {
        flags: '--state <state>',
        description: 'ready, delayed, claimed, suspect, dead or done (from the archive); default: all but done',
      },
      { flags: '--key <key>', description: 'those of this key' },
      { flags: '--limit <count>', description: 'so many: 100 (default), 1000 at most' },
      { flags: '--after <id>', description: 'those with a greater id' },
    ],
  }),
  command('show', {
    summary: 'show one event with its payload and headers',
    help: `Shows an event that waits, a dead letter, or a done event that the archive keeps, with all that it carries.

  outbox show 4711`,
    arguments: [{ name: 'id', description: 'its id, as list shows it' }],
  }),
  command('blocked', {
    summary: 'show the keys that wait for an event that may not run',
    help: `Events of one key run in their order: one that failed and waits for its next attempt, one that is paused, or whose type no
worker knows, bars those behind it. Shows such keys, those with most behind them first.

  outbox blocked`,
  }),
  command('redrive', {
    summary: 'send dead letters back as new events',
    help: `Dead letters become new events, at the end of their keys, with all their attempts before them. Without --yes it only says how
many they would be. In batches of 1000, each a commit of its own: one that is stopped can be run again.

  outbox redrive --type mail.send
  outbox redrive --type mail.send --yes
  outbox redrive --reason crash --older-than 1h --yes`,
    options: [...choice, yes],
  }),
  command('purge', {
    summary: 'delete dead letters',
    help: `Deletes dead letters for good. Without --yes it only says how many they would be.

  outbox purge --older-than 30d
  outbox purge --older-than 30d --yes`,
    options: [...choice, yes],
  }),
  command('pause', {
    summary: 'let the events of a type wait',
    help: `No worker takes events of the type until it is resumed; what is begun goes on. Events behind them in their keys wait too.

  outbox pause mail.send`,
    arguments: [{ name: 'type', description: 'type of the events' }],
  }),
  command('resume', {
    summary: 'let workers take the events of a type again',
    help: `Ends a pause, and wakes the workers.

  outbox resume mail.send`,
    arguments: [{ name: 'type', description: 'type of the events' }],
  }),
  command('cancel', {
    summary: 'delete an event that waits',
    help: `Deletes an event that no worker has begun, and shows what it was. Ends with 7 where a worker has begun it.

  outbox cancel 4711`,
    arguments: [{ name: 'id', description: 'its id, as list shows it' }],
  }),
  command('policy', {
    summary: 'show, or change, what is kept for how long',
    help: `Done events are deleted, unless --archive keeps them for so many days (a table partitioned by the day). Dead letters are kept,
unless --dead-letters deletes those that are older. It holds for all workers, and is carried out by one of them.

  outbox policy
  outbox policy --archive 14d --dead-letters 90d
  outbox policy --archive off`,
    options: [
      { flags: '--archive <days>', description: 'keep done events: 14d, or off' },
      { flags: '--dead-letters <days>', description: 'delete dead letters that are older: 90d, or off' },
    ],
  }),
  command('dashboard', {
    summary: 'serve a page that shows the outbox, until it is stopped',
    help: `A page with depth, age, rates, dead letters, blocked keys and workers. Whoever gives the token may redrive, pause and resume;
without the key token (OUTBOX_TOKEN) nobody may. Everybody who reaches the page may look: payloads are not shown, keys and errors are.
It speaks HTTP and listens on this machine only: put it behind what speaks TLS and knows who is who.

  OUTBOX_TOKEN=file:/run/secrets/outbox outbox dashboard --port 8080`,
    options: [
      { flags: '--port <port>', description: '8080 (default)' },
      { flags: '--host <address>', description: '127.0.0.1 (default)' },
    ],
    lasting: true,
  }),
  command('bench', {
    summary: 'measure what this database can do',
    help: `Enqueues events that do nothing and drains them, in a schema of its own, which it drops at the end. WAL is counted for the
whole server: let nobody else write meanwhile.

  outbox bench --events 50000`,
    options: [{ flags: '--events <count>', description: 'so many: 20000 (default)' }],
  }),
]

/** The program: `main(async () => outboxApp)` runs it, `runApp` runs it inside another process. */
export const outboxApp: App<typeof outboxCliConfigSchema> = {
  name: 'outbox',
  version,
  description: 'Works through a transactional outbox on PostgreSQL, shows what is in it, and puts things right.',
  envPrefix: 'OUTBOX',
  config: async () => (await import('./config.ts')).outboxCliConfigSchema,
  commands,
  resolvers: async (tree, context) => {
    const { openReferences } = await import('@common-handlers/cli')
    const { ConfigError } = await import('@common-handlers/core')
    return openReferences(tree, context, () => {
      throw new ConfigError('this program reads env: and file: references, and no vault', { code: 'OUTBOX_CLI_NO_VAULT' })
    })
  },
  help: `Where to begin:

  export DATABASE_URL=postgres://user:password@localhost/app   # or PGHOST, PGUSER, PGPASSWORD, …; or OUTBOX_URL

  outbox migrate                       make the schema
  outbox work ./outbox.config.ts       run handlers
  outbox stats                         what is in it, and who works?
  outbox list --state dead             which dead letters are there?
  outbox show 4711                     what was in that one, and why did it fail?
  outbox redrive --type mail.send      send them back: first only say how many, with --yes do it

Every key can be given in the environment (schema: OUTBOX_SCHEMA), in a file with -c, and by --set schema=….`,
}
