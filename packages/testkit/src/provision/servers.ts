import { nats, openbao, rclone, seaweedfs, trino, versitygw } from './artifacts.ts'
import type { Artifact } from './cache.ts'
import { nginxWithDav, proftpdBinary, rabbitmqScript, sshdBinary, vsftpd } from './debian-servers.ts'
import { cassandra, kafka, mongoJavaServer, neo4j, soapService } from './java-servers.ts'
import { hvac, pyiceberg, trinoPython } from './python.ts'

/** Everything that can be fetched, by the name the command takes. */
export const artifacts: Readonly<Record<string, Artifact>> = {
  cassandra,
  hvac,
  kafka,
  'mongo-java-server': mongoJavaServer,
  nats,
  neo4j,
  openbao,
  pyiceberg,
  rclone,
  seaweedfs,
  'soap-service': soapService,
  trino,
  'trino-python': trinoPython,
  versitygw,
  vsftpd,
}

/** What is installed, where the machine does not have it: the program that there is then. */
export const programs: Readonly<Record<string, () => Promise<string>>> = {
  nginx: async () => (await nginxWithDav()).command,
  proftpd: proftpdBinary,
  rabbitmq: rabbitmqScript,
  sshd: sshdBinary,
}
