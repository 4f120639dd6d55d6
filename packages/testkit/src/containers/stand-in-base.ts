import { execFile } from 'node:child_process'
import { chmod, copyFile, cp, mkdir, realpath, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { runClient } from '../provision/package-clients.ts'

const run = promisify(execFile)

// A root file system in the place of `node:24-bookworm-slim` for a machine that has no registry to pull it from: the files
// of this machine's own essential Debian packages, the Node that runs this, and npm. The same Debian and the same Node as
// the official image, not its bytes.

/** Directories that packages own and that hold nothing a container needs. */
const documentation = /^\/usr\/share\/(doc|man|locale|info|lintian|bug)(\/|$)/
/** On a merged-/usr system these are links, and packages still list files below them. */
const merged = /^\/(bin|sbin|lib|lib64)(\/|$)/

/** Writes the root file system into an empty folder. */
export async function makeStandInBase(root: string): Promise<void> {
  const files = await packageFiles()
  const list = files.map((file) => (merged.test(file) ? `usr${file}` : file.slice(1)))
  const listFile = `${root}.files`
  await writeFile(listFile, `${['bin', 'sbin', 'lib', 'lib64', ...list].join('\n')}\n`)
  await mkdir(root, { recursive: true })
  // Some files that a package lists are diverted or gone; what matters is seen when a container starts.
  await runClient('sh', [
    '-c',
    'tar -C / --no-recursion --ignore-failed-read -cf - -T "$1" 2>/dev/null | tar -C "$2" -xf -',
    'copy',
    listFile,
    root,
  ])
  for (const folder of ['dev', 'proc', 'sys', 'run', 'root', 'home/node', 'etc/ssl/certs', 'usr/local/bin', 'usr/local/etc'])
    await mkdir(join(root, folder), { recursive: true })
  for (const folder of ['tmp', 'var/tmp']) {
    await mkdir(join(root, folder), { recursive: true })
    await chmod(join(root, folder), 0o1777)
  }
  await writeFile(
    join(root, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n',
  )
  await writeFile(join(root, 'etc/group'), 'root:x:0:\nnode:x:1000:\nnogroup:x:65534:\n')
  await runClient('chown', ['-R', '1000:1000', join(root, 'home/node')])
  await installNode(root)
  // The certificates this machine trusts, and what its npm is told about them.
  await copyFile('/etc/ssl/certs/ca-certificates.crt', join(root, 'etc/ssl/certs/ca-certificates.crt'))
  const { stdout } = await run('npm', ['config', 'get', 'cafile'], { cwd: '/' })
  if (!/^(null|undefined)?\s*$/.test(stdout))
    await writeFile(join(root, 'usr/local/etc/npmrc'), 'cafile=/etc/ssl/certs/ca-certificates.crt\n')
  await runClient('ldconfig', ['-r', root])
}

/** Files of the essential packages, and of the libraries Node needs, with all that these depend on. */
async function packageFiles(): Promise<string[]> {
  const { stdout: known } = await run('dpkg-query', ['-W', '-f=${Package}\\t${Essential}\\t${Priority}\\n'])
  const essential = known.split('\n').flatMap((line) => {
    const [name = '', isEssential, priority] = line.split('\t')
    return isEssential === 'yes' || priority === 'required' ? [name] : []
  })
  const only = ['recommends', 'suggests', 'conflicts', 'breaks', 'replaces', 'enhances'].map((kind) => `--no-${kind}`)
  const wanted = [...essential, 'libstdc++6', 'libatomic1', 'ca-certificates']
  const { stdout: closure } = await run('apt-cache', ['depends', '--recurse', '--installed', ...only, ...wanted], {
    maxBuffer: 64 * 1024 * 1024,
  })
  const names = [...new Set(closure.split('\n').filter((line) => /^[a-z0-9]/.test(line)))]
  const { stdout } = await run('dpkg-query', ['-L', ...names], { maxBuffer: 64 * 1024 * 1024 }).catch(
    // Names of virtual packages are in the closure too, and dpkg-query says so by its exit code.
    (error: { readonly stdout?: string }) => ({ stdout: error.stdout ?? '' }),
  )
  const files = stdout.split('\n').filter((file) => file.startsWith('/') && file !== '/.' && !documentation.test(file))
  return [...new Set(files)].filter((file) => !/^\/(bin|sbin|lib|lib64)$/.test(file))
}

async function installNode(root: string): Promise<void> {
  const bin = join(root, 'usr/local/bin')
  await copyFile(await realpath(process.execPath), join(bin, 'node'))
  await chmod(join(bin, 'node'), 0o755)
  const { stdout } = await run('npm', ['root', '--global'], { cwd: '/' })
  await cp(join(stdout.trim(), 'npm'), join(root, 'usr/local/lib/node_modules/npm'), { recursive: true })
  await symlink('../lib/node_modules/npm/bin/npm-cli.js', join(bin, 'npm'))
  await symlink('../lib/node_modules/npm/bin/npx-cli.js', join(bin, 'npx'))
}
