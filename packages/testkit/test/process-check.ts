import { readdir, readFile, readlink } from 'node:fs/promises'

/** A listening socket of a process: its local address as text, without the port. */
export interface Listener {
  readonly host: string
  readonly port: number
}

/** What these processes listen on, read from Linux' /proc; on other systems nothing is known and nothing is returned. */
export async function listenersOf(pids: readonly number[]): Promise<Listener[]> {
  const inodes = new Set<string>()
  for (const pid of pids) {
    for (const file of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
      const inode = (await readlink(`/proc/${pid}/fd/${file}`).catch(() => '')).match(/^socket:\[(\d+)\]$/)?.[1]
      if (inode !== undefined) inodes.add(inode)
    }
  }
  const listeners: Listener[] = []
  for (const table of ['tcp', 'tcp6']) {
    const text = await readFile(`/proc/net/${table}`, 'utf8').catch(() => '')
    for (const line of text.split('\n').slice(1)) {
      const fields = line.trim().split(/\s+/)
      const [host, port] = (fields[1] ?? '').split(':')
      // 0A is the state LISTEN.
      if (fields[3] !== '0A' || host === undefined || port === undefined || !inodes.has(fields[9] ?? '')) continue
      listeners.push({ host: loopback[host] ?? host, port: Number.parseInt(port, 16) })
    }
  }
  return listeners
}

/** The ways in which the tables of a little-endian machine spell loopback. */
const loopback: Readonly<Record<string, string>> = {
  '0100007F': 'loopback',
  '0000000000000000FFFF00000100007F': 'loopback',
  '00000000000000000000000001000000': 'loopback',
}
