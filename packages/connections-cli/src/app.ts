import type { App, AppCommand, AppOption } from '@common-handlers/cli'
import type { CommandName } from './commands.ts'
import type { ConnectionsCliConfig, connectionsCliConfigSchema } from './config.ts'
import { version } from './version.ts'

// What the program says of itself. What it does is loaded when a command runs, and a driver when its protocol is tried.

type Command = AppCommand<ConnectionsCliConfig>

const file: AppOption = {
  flags: '-f, --file <file>',
  description: 'connections by name, or one; YAML or JSON (or CONNECTIONS_FILE)',
}
const one: readonly AppOption[] = [
  file,
  { flags: '--url <url>', description: 'the short form, such as postgres://user@host/name; without a password' },
  { flags: '--key <key=value...>', description: 'a key of the connection; a secret as env:NAME or file:/path' },
]

const command = (name: CommandName, given: Omit<Command, 'name' | 'run'>): Command => ({
  ...given,
  name,
  run: async (context) => (await import('./commands.ts')).run(name, context),
})

const connection = { name: 'connection', description: 'a protocol, or the name of a connection in the file' }

const commands: readonly Command[] = [
  command('list', {
    summary: 'list the protocols that are here, and how to install the others',
    help: `Looks at the dependencies of the project in this folder: each connector among them is a protocol. Nothing is imported.

  connections list`,
  }),
  command('test', {
    summary: 'try one connection step by step',
    help: `Tries the configuration, the name, the port, the certificate, the login, and what the connector tries after that; says at
which step it ends and what to do. Ends with 1 when a step fails.

The keys come from the file, then from variables (PG_HOST, PG_PASSWORD, …; connections explain <protocol> --keys lists them), then
from --url and --key. A connection that stands by name in a file wins over the variables, which give what it leaves out.

  connections test http --url https://api.example.com/v2
  connections test sqlite --key databasePath=/data/app.db readOnly=true
  connections test warehouse --file connections.yaml
  PG_PASSWORD=file:/run/secrets/pg connections test postgres --url postgres://app@db.example.com/app`,
    arguments: [connection],
    options: one,
  }),
  command('doctor', {
    summary: 'try all connections of a file',
    help: `Tries all connections of a file, several at a time, and says of each how far it came. Ends with 1 when one does not work.

  # connections.yaml
  connections:
    orders: { protocol: http, baseUrl: https://api.example.com/v2, token: file:/run/secrets/orders }
    archive: { protocol: sqlite, databasePath: /data/archive.db }

  connections doctor
  connections doctor --file connections.yaml --json | jq '.connections[] | select(.ok | not) | .name'`,
    options: [file],
  }),
  command('explain', {
    summary: 'show the configuration of a connection and where each value came from',
    help: `Shows every value in force and the layer that gave it, with secrets hidden. References are resolved to prove that they can
be. With --keys it lists every key that the protocol knows, with its variable, and needs no configuration.

  connections explain http --keys
  connections explain warehouse --file connections.yaml`,
    arguments: [connection],
    options: [...one, { flags: '--keys', description: 'list every key that can be set' }],
  }),
]

/** The program: `main(async () => connectionsApp)` runs it, `runApp` runs it inside another process. */
export const connectionsApp: App<typeof connectionsCliConfigSchema> = {
  name: 'connections',
  version,
  description: 'Tries the connections of a project, with the connectors that it has installed, and says what is wrong with them.',
  envPrefix: 'CONNECTIONS',
  config: async () => (await import('./config.ts')).connectionsCliConfigSchema,
  commands,
  resolvers: async (tree, context) => {
    const { openReferences } = await import('@common-handlers/cli')
    const { noVault } = await import('./errors.ts')
    return openReferences(tree, context, () => {
      throw noVault()
    })
  },
  help: `Where to begin, in the folder of your project:

  connections list                     which protocols are here?
  connections explain http --keys      what can be set?
  connections test http --url https://api.example.com
  connections doctor                   do all connections of connections.yaml work?`,
}
