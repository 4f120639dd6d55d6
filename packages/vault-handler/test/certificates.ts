import { randomUUID } from 'node:crypto'
import { openbaoAdmin, type OpenBaoAddress } from '@common-handlers/testkit'

/** PEM. */
export interface Certificate {
  readonly certificate: string
  readonly key: string
}

/** A certificate authority: OpenBao's own. */
export interface CertificateAuthority {
  readonly certificate: string
  /** For a server or a client of this name, good at 127.0.0.1 and localhost too unless told otherwise. */
  issue(name: string, options?: { readonly local?: boolean }): Promise<Certificate>
}

export async function certificateAuthority(openbao: OpenBaoAddress): Promise<CertificateAuthority> {
  const mount = `pki-${randomUUID().slice(0, 8)}`
  const admin = openbaoAdmin(openbao)
  const data = async (path: string, body: object): Promise<Record<string, string>> => {
    const { status, body: answer } = await admin.request('POST', `${mount}/${path}`, body)
    if (status >= 300) throw new Error(`POST ${mount}/${path}: ${status} ${JSON.stringify(answer)}`)
    return (answer as { data: Record<string, string> }).data
  }
  await admin.mount(mount, 'pki')
  const root = await data('root/generate/internal', { common_name: 'Test Root', ttl: '24h', key_type: 'ec', key_bits: 256 })
  await data('roles/any', { allow_any_name: true, key_type: 'ec', key_bits: 256, ttl: '1h' })
  return {
    certificate: root['certificate'] ?? '',
    async issue(name, { local = true } = {}) {
      const sans = local ? { alt_names: 'localhost', ip_sans: '127.0.0.1' } : {}
      const issued = await data('issue/any', { common_name: name, ...sans })
      return { certificate: issued['certificate'] ?? '', key: issued['private_key'] ?? '' }
    },
  }
}
