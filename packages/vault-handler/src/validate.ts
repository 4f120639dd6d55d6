import { DataError, issuePath, type StandardSchema } from '@common-handlers/core'
import type { SecretData } from './secret-data.ts'

/** What a schema makes of a secret. @throws DataError `VAULT_SECRET_INVALID`, which names fields and no values */
export async function validate<T>(path: string, data: SecretData, schema: StandardSchema<T>): Promise<T> {
  const result = await schema['~standard'].validate(data)
  if (result.issues === undefined) return result.value
  const problems = result.issues.map((issue) => `${issuePath(issue) || '(the secret)'}: ${issue.message}`)
  throw new DataError(`${path} is not what the schema asks for:\n${problems.map((line) => `  ${line}`).join('\n')}`, {
    code: 'VAULT_SECRET_INVALID',
    context: { path, problems },
    where: { file: path },
  })
}
