export { fetchFiles } from './fetch.ts'
export type { FilesDestination, FilesQuery, FilesSelection, LeftFile } from './query.ts'
export { joinPath, type ReadOptions, type RemoteEntry, type RemoteFiles } from './remote-files.ts'
