import { type CallOptions, HandlerError } from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import { toTransitError } from './errors.ts'

/** Text is taken as UTF-8. */
export type TransitData = string | Uint8Array

/** What one value needs beside itself. */
export interface TransitContext {
  /** For a key that was created with `derived`: the key of this value is derived from it. */
  readonly context?: TransitData | undefined
  /** Authenticated with the value and not part of the ciphertext (AEAD ciphers). */
  readonly associatedData?: TransitData | undefined
}

export interface EncryptItem extends TransitContext {
  readonly plaintext: TransitData
  /** The newest one if not given. */
  readonly keyVersion?: number | undefined
}

export interface DecryptItem extends TransitContext {
  /** `vault:v1:…` */
  readonly ciphertext: string
}

export interface RewrapItem extends DecryptItem {
  /** The newest one if not given. */
  readonly keyVersion?: number | undefined
}

export interface SignItem extends Pick<TransitContext, 'context'> {
  readonly input: TransitData
}

export interface VerifyItem extends SignItem {
  /** `vault:v1:…` */
  readonly signature: string
}

export interface HmacItem {
  readonly input: TransitData
}

export type HashAlgorithm =
  | 'sha1'
  | 'sha2-224'
  | 'sha2-256'
  | 'sha2-384'
  | 'sha2-512'
  | 'sha3-224'
  | 'sha3-256'
  | 'sha3-384'
  | 'sha3-512'
  | 'none'

/** How to sign and verify. */
export interface SignatureOptions extends CallOptions {
  /** Default `sha2-256`. */
  readonly hashAlgorithm?: HashAlgorithm | undefined
  /** The input is a digest already. */
  readonly prehashed?: boolean | undefined
  /** Of RSA keys. Default `pss`. */
  readonly signatureAlgorithm?: 'pss' | 'pkcs1v15' | undefined
  /** Of ECDSA keys: as in X.509 or as in a JSON Web Signature. Default `asn1`. */
  readonly marshaling?: 'asn1' | 'jws' | undefined
}

export interface SignOptions extends SignatureOptions {
  /** The newest one if not given. */
  readonly keyVersion?: number | undefined
}

export interface HmacOptions extends CallOptions {
  /** Default `sha2-256`. */
  readonly algorithm?: Exclude<HashAlgorithm, 'sha1' | 'none'> | undefined
  readonly keyVersion?: number | undefined
}

export interface CreateKeyOptions extends CallOptions {
  /** `aes256-gcm96` if not given; `chacha20-poly1305`, `ed25519`, `ecdsa-p256`, `rsa-2048` … */
  readonly type?: string | undefined
  /** Each value gives a `context`, from which its own key is derived. */
  readonly derived?: boolean | undefined
  /** May the key leave the server? It cannot be taken back. */
  readonly exportable?: boolean | undefined
}

export interface TransitKey {
  readonly name: string
  readonly type: string
  readonly derived: boolean
  readonly latestVersion: number
  /** Ciphertexts of older versions cannot be decrypted any more. */
  readonly minDecryptionVersion: number
  /** 0 for the newest alone. */
  readonly minEncryptionVersion: number
  /** Oldest first. */
  readonly versions: readonly { readonly version: number; readonly createdAt: Date; readonly publicKey: string | undefined }[]
}

/** A key for use outside, and the same key encrypted, to be kept beside what it encrypts. */
export interface DataKey {
  readonly plaintext: Buffer
  readonly ciphertext: string
}

type Fields = Readonly<Record<string, unknown>>

/**
 * The transit engine: encryption and signatures by keys that stay in the server. A batch is one request, and gives a result
 * for each item, in order, as `Promise.allSettled` does: one bad item does not spoil the others.
 * @throws NotFoundError `VAULT_KEY_NOT_FOUND`
 * @throws DataError `VAULT_CIPHERTEXT_INVALID`
 */
export class Transit {
  readonly #api: VaultApi
  readonly #mount: string

  constructor(api: VaultApi, mount: string) {
    this.#api = api
    this.#mount = mount
  }

  /** The ciphertext, `vault:v1:…`. A key that does not exist is created, if the policy grants `create`. */
  encrypt(key: string, plaintext: TransitData, options: Omit<EncryptItem, 'plaintext'> & CallOptions = {}): Promise<string> {
    return this.#one('encrypt', key, encryptFields({ ...options, plaintext }), readCiphertext, options)
  }

  encryptBatch(key: string, items: readonly EncryptItem[], options?: CallOptions): Promise<PromiseSettledResult<string>[]> {
    return this.#batch('encrypt', key, items.map(encryptFields), {}, readCiphertext, options)
  }

  decrypt(key: string, ciphertext: string, options: TransitContext & CallOptions = {}): Promise<Buffer> {
    return this.#one('decrypt', key, ciphertextFields({ ...options, ciphertext }), readPlaintext, options)
  }

  decryptBatch(key: string, items: readonly DecryptItem[], options?: CallOptions): Promise<PromiseSettledResult<Buffer>[]> {
    return this.#batch('decrypt', key, items.map(ciphertextFields), {}, readPlaintext, options)
  }

  /** Encrypts anew with the newest version of the key, without showing the plaintext. */
  rewrap(key: string, ciphertext: string, options: Omit<RewrapItem, 'ciphertext'> & CallOptions = {}): Promise<string> {
    return this.#one('rewrap', key, ciphertextFields({ ...options, ciphertext }), readCiphertext, options)
  }

  rewrapBatch(key: string, items: readonly RewrapItem[], options?: CallOptions): Promise<PromiseSettledResult<string>[]> {
    return this.#batch('rewrap', key, items.map(ciphertextFields), {}, readCiphertext, options)
  }

  /** The signature, `vault:v1:…`. */
  sign(key: string, input: TransitData, options: Omit<SignItem, 'input'> & SignOptions = {}): Promise<string> {
    const fields = { ...inputFields({ ...options, input }), ...signatureFields(options) }
    return this.#one('sign', key, fields, readSignature, options)
  }

  signBatch(key: string, items: readonly SignItem[], options: SignOptions = {}): Promise<PromiseSettledResult<string>[]> {
    return this.#batch('sign', key, items.map(inputFields), signatureFields(options), readSignature, options)
  }

  /** False for a signature of something else and for what is no signature at all. */
  async verify(
    key: string,
    input: TransitData,
    signature: string,
    options: Omit<SignItem, 'input'> & SignatureOptions = {},
  ): Promise<boolean> {
    const fields = { ...verifyFields({ ...options, input, signature }), ...signatureFields(options) }
    return settledVerdict(await settled(this.#one('verify', key, fields, readVerdict, options)))
  }

  async verifyBatch(
    key: string,
    items: readonly VerifyItem[],
    options: SignatureOptions = {},
  ): Promise<PromiseSettledResult<boolean>[]> {
    const fields = items.map(verifyFields)
    const results = await this.#batch('verify', key, fields, signatureFields(options), readVerdict, options)
    return Promise.all(results.map((result) => settled(Promise.resolve(result).then(settledVerdict))))
  }

  /** The keyed digest, `vault:v1:…`. */
  hmac(key: string, input: TransitData, options: HmacOptions = {}): Promise<string> {
    return this.#one('hmac', key, { ...inputFields({ input }), ...hmacFields(options) }, readHmac, options)
  }

  hmacBatch(key: string, items: readonly HmacItem[], options: HmacOptions = {}): Promise<PromiseSettledResult<string>[]> {
    return this.#batch('hmac', key, items.map(inputFields), hmacFields(options), readHmac, options)
  }

  /** False for the digest of something else and for what is no digest at all. */
  async verifyHmac(
    key: string,
    input: TransitData,
    hmac: string,
    options: Omit<HmacOptions, 'keyVersion'> = {},
  ): Promise<boolean> {
    const fields = { ...inputFields({ input }), hmac, hash_algorithm: options.algorithm }
    return settledVerdict(await settled(this.#one('verify', key, fields, readVerdict, options)))
  }

  /** A new key for use outside: encrypt with `plaintext`, forget it, and keep `ciphertext`, which `decrypt` turns into it again. */
  dataKey(
    key: string,
    options: Pick<TransitContext, 'context'> & { readonly bits?: 128 | 256 | 512 | undefined } & CallOptions = {},
  ): Promise<DataKey> {
    const fields = { context: toBase64(options.context), bits: options.bits }
    const read = (data: Fields): DataKey => ({ plaintext: readPlaintext(data), ciphertext: readCiphertext(data) })
    return this.#one('datakey/plaintext', key, fields, read, options)
  }

  /** Makes a key. One that is there already stays as it is. */
  createKey(key: string, options: CreateKeyOptions = {}): Promise<void> {
    const { type, derived, exportable } = options
    return this.#send('create', `keys/${key}`, { type, derived, exportable }, true, options, () => undefined)
  }

  /** Adds a version to a key, which new ciphertexts and signatures use. */
  rotateKey(key: string, options?: CallOptions): Promise<void> {
    return this.#send('rotate', `keys/${key}/rotate`, {}, false, options, () => undefined)
  }

  /** What is known about a key; never the key itself. @throws NotFoundError `VAULT_KEY_NOT_FOUND` */
  readKey(key: string, options?: CallOptions): Promise<TransitKey> {
    return this.#api.call(`read the key ${key}`, options, async (signal) => {
      const path = `${this.#mount}/keys/${key}`
      const answer = await this.#api.authorised({ method: 'GET', path, idempotent: true }, signal).catch((error: unknown) => {
        const missing = HandlerError.is(error) && error.code === 'VAULT_SECRET_NOT_FOUND'
        throw missing ? toTransitError({ method: 'GET', path }, 'key not found', error.context) : error
      })
      return readKey((answer as { readonly data: KeyAnswer }).data)
    })
  }

  #one<T>(action: string, key: string, fields: Fields, read: (data: Fields) => T, options?: CallOptions): Promise<T> {
    return this.#send(action, `${action}/${key}`, fields, true, options, read)
  }

  async #batch<T>(
    action: string,
    key: string,
    items: readonly Fields[],
    shared: Fields,
    read: (data: Fields) => T,
    options?: CallOptions,
  ): Promise<PromiseSettledResult<T>[]> {
    if (items.length === 0) return []
    const path = `${action}/${key}`
    const results = await this.#send(
      action,
      path,
      { ...shared, batch_input: items },
      true,
      options,
      (data) => data['batch_results'],
    )
    return (results as readonly Fields[]).map((result, index) => {
      const { error } = result
      if (typeof error !== 'string' || error === '') return { status: 'fulfilled', value: read(result) }
      const facts = { method: 'POST', path: `${this.#mount}/${path}`, sent: items[index] }
      return { status: 'rejected', reason: toTransitError(facts, error, { item: index }) }
    })
  }

  #send<T>(
    action: string,
    path: string,
    body: Fields,
    idempotent: boolean,
    options: CallOptions | undefined,
    read: (data: Fields) => T,
  ): Promise<T> {
    return this.#api.call(`${action} with ${path}`, options, async (signal) => {
      const request = { method: 'POST', path: `${this.#mount}/${path}`, body, idempotent }
      const answer = await this.#api.authorised(request, signal)
      return read((answer as { readonly data?: Fields } | undefined)?.data ?? {})
    })
  }
}

interface KeyAnswer {
  readonly name: string
  readonly type: string
  readonly derived: boolean
  readonly latest_version: number
  readonly min_decryption_version: number
  readonly min_encryption_version: number
  /** By version: the second it was created at, or more where there is a public key. */
  readonly keys: Readonly<Record<string, number | { readonly creation_time: string; readonly public_key?: string }>>
}

function readKey(answer: KeyAnswer): TransitKey {
  return {
    name: answer.name,
    type: answer.type,
    derived: answer.derived,
    latestVersion: answer.latest_version,
    minDecryptionVersion: answer.min_decryption_version,
    minEncryptionVersion: answer.min_encryption_version,
    versions: Object.entries(answer.keys)
      .map(([version, facts]) =>
        typeof facts === 'number'
          ? { version: Number(version), createdAt: new Date(facts * 1000), publicKey: undefined }
          : { version: Number(version), createdAt: new Date(facts.creation_time), publicKey: facts.public_key },
      )
      .toSorted((a, b) => a.version - b.version),
  }
}

function toBase64(data: TransitData | undefined): string | undefined {
  if (data === undefined) return undefined
  const bytes = typeof data === 'string' ? Buffer.from(data, 'utf8') : Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  return bytes.toString('base64')
}

const contextFields = (item: TransitContext): Fields => ({
  context: toBase64(item.context),
  associated_data: toBase64(item.associatedData),
})
const encryptFields = (item: EncryptItem): Fields => ({
  ...contextFields(item),
  plaintext: toBase64(item.plaintext),
  key_version: item.keyVersion,
})
const ciphertextFields = (item: RewrapItem): Fields => ({
  ...contextFields(item),
  ciphertext: item.ciphertext,
  key_version: item.keyVersion,
})
const inputFields = (item: SignItem): Fields => ({ input: toBase64(item.input), context: toBase64(item.context) })
const verifyFields = (item: VerifyItem): Fields => ({ ...inputFields(item), signature: item.signature })
const signatureFields = (options: SignOptions): Fields => ({
  hash_algorithm: options.hashAlgorithm,
  prehashed: options.prehashed,
  signature_algorithm: options.signatureAlgorithm,
  marshaling_algorithm: options.marshaling,
  key_version: options.keyVersion,
})
const hmacFields = (options: HmacOptions): Fields => ({ algorithm: options.algorithm, key_version: options.keyVersion })

const readCiphertext = (data: Fields): string => String(data['ciphertext'])
const readSignature = (data: Fields): string => String(data['signature'])
const readHmac = (data: Fields): string => String(data['hmac'])
const readPlaintext = (data: Fields): Buffer => Buffer.from(String(data['plaintext']), 'base64')
const readVerdict = (data: Fields): boolean => data['valid'] === true

async function settled<T>(work: Promise<T>): Promise<PromiseSettledResult<T>> {
  const [result] = await Promise.allSettled([work])
  return result
}

/** What cannot be read as a signature is none. */
function settledVerdict(result: PromiseSettledResult<boolean>): boolean {
  if (result.status === 'fulfilled') return result.value
  if ((result.reason as { readonly code?: string }).code === 'VAULT_SIGNATURE_INVALID') return false
  throw result.reason
}
