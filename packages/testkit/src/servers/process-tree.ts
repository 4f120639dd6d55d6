import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

/** A process and all its descendants, itself first. */
export async function processTree(root: number): Promise<number[]> {
  const parents = (await fromProc()) ?? (await fromPs())
  const tree = [root]
  // The list grows while it is walked.
  for (const pid of tree) {
    for (const [child, parent] of parents) if (parent === pid && !tree.includes(child)) tree.push(child)
  }
  return tree
}

/** Whether one of the processes still runs. A zombie, which nobody has collected yet, does not. */
export async function anyRunning(pids: readonly number[]): Promise<boolean> {
  const parents = (await fromProc()) ?? (await fromPs())
  return pids.some((pid) => parents.has(pid))
}

/** Slim containers have no `ps`, other systems no `/proc`. */
async function fromProc(): Promise<Map<number, number> | undefined> {
  const entries = await readdir('/proc').catch(() => [])
  const pids = entries.filter((name) => /^\d+$/.test(name))
  if (pids.length === 0) return undefined
  const parents = new Map<number, number>()
  for (const pid of pids) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
    // "pid (name) state parent …", and a name may hold anything, brackets too. A zombie has ended.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (fields[1] !== undefined && fields[0] !== 'Z') parents.set(Number(pid), Number(fields[1]))
  }
  return parents
}

async function fromPs(): Promise<Map<number, number>> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid=']).catch(() => ({ stdout: '' }))
  return new Map(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.trim().split(/\s+/).map(Number))
      .filter((pair): pair is [number, number] => pair.length === 2),
  )
}
