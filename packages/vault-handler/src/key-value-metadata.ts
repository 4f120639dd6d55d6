import { parseGoDuration } from './go-duration.ts'

/** One version of a secret of a version 2 mount. */
export interface KvVersion {
  readonly version: number
  readonly createdAt: Date
  /** When it was deleted, or will be by `deleteVersionAfterMs`; undefined where neither is so. */
  readonly deletedAt: Date | undefined
  /** Gone for good. */
  readonly destroyed: boolean
}

/** What a version 2 mount knows about a secret, without its values. */
export interface KvMetadata {
  /** The newest version; 0 where none was written yet. This is what `cas` is compared with. */
  readonly currentVersion: number
  readonly createdAt: Date
  readonly updatedAt: Date
  /** How many versions are kept; 0 for as many as the mount says (10 by default). */
  readonly maxVersions: number
  /** True where every write needs `cas`. */
  readonly casRequired: boolean
  /** A version is deleted so long after it was written; 0 for never, or what the mount says. */
  readonly deleteVersionAfterMs: number
  readonly customMetadata: Readonly<Record<string, string>>
  /** Every version that is kept, oldest first. */
  readonly versions: readonly KvVersion[]
}

/** What can be set of it. What is not given stays as it is; `customMetadata` is replaced as a whole. */
export interface KvMetadataSettings {
  readonly maxVersions?: number | undefined
  readonly casRequired?: boolean | undefined
  /** Whole seconds: the server drops what is left over. */
  readonly deleteVersionAfterMs?: number | undefined
  /** Not secret: whoever may list may read it. */
  readonly customMetadata?: Readonly<Record<string, string>> | undefined
}

/** A version as the server writes it: nanoseconds in RFC 3339, an empty text for no time. */
export interface VersionAnswer {
  readonly version: number
  readonly created_time: string
  readonly deletion_time: string
  readonly destroyed: boolean
  readonly custom_metadata?: Readonly<Record<string, string>> | null
}

export interface MetadataAnswer {
  readonly current_version: number
  readonly created_time: string
  readonly updated_time: string
  readonly max_versions: number
  readonly cas_required: boolean
  readonly delete_version_after: string
  readonly custom_metadata: Readonly<Record<string, string>> | null
  readonly versions: Readonly<Record<string, Omit<VersionAnswer, 'version'>>>
}

export function readVersion(answer: VersionAnswer): KvVersion {
  return {
    version: answer.version,
    createdAt: new Date(answer.created_time),
    deletedAt: answer.deletion_time === '' ? undefined : new Date(answer.deletion_time),
    destroyed: answer.destroyed,
  }
}

export function readMetadata(answer: MetadataAnswer): KvMetadata {
  return {
    currentVersion: answer.current_version,
    createdAt: new Date(answer.created_time),
    updatedAt: new Date(answer.updated_time),
    maxVersions: answer.max_versions,
    casRequired: answer.cas_required,
    deleteVersionAfterMs: parseGoDuration(answer.delete_version_after) ?? 0,
    customMetadata: answer.custom_metadata ?? {},
    versions: Object.entries(answer.versions)
      .map(([version, facts]) => readVersion({ ...facts, version: Number(version) }))
      .toSorted((a, b) => a.version - b.version),
  }
}

/** The settings as the server takes them. */
export function writeSettings(settings: KvMetadataSettings): Readonly<Record<string, unknown>> {
  const { maxVersions, casRequired, deleteVersionAfterMs, customMetadata } = settings
  return {
    max_versions: maxVersions,
    cas_required: casRequired,
    delete_version_after: deleteVersionAfterMs === undefined ? undefined : `${deleteVersionAfterMs}ms`,
    custom_metadata: customMetadata,
  }
}
