export { connectorConformance, type ConnectorCase, type ConnectionsLike } from './conformance/connector.ts'
export { sqlConformance, type SqlConnectorCase } from './conformance/sql-connector.ts'
export { handlerConformance, type HandlerCase, type HandlerLike } from './conformance/handler.ts'
export { type EngineAnswer, engineRun } from './containers/engine.ts'
export { describeGiven } from './vitest/describe-given.ts'
export { describeWith } from './vitest/describe-with.ts'
export type { ServersOf } from './vitest/describe-with.ts'
export { ServerStartError, ServerUnavailable } from './errors.ts'
export { committedNumbers, memorySink } from './streams.ts'
export type { MemorySink } from './streams.ts'
export { liveMemory } from './live-memory.ts'
export { readmeExample } from './readme.ts'
export { startFaultProxy } from './fault-proxy.ts'
export type { Direction, FaultProxy } from './fault-proxy.ts'
export type {
  Addresses,
  EngineAddress,
  OpenBaoAddress,
  PostgresAddress,
  S3Address,
  SeaweedfsAddress,
  ServerKind,
  TrinoAddress,
  VersitygwAddress,
} from './servers/addresses.ts'
export { openbaoBinary, rcloneBinary, s5cmdBinary, seaweedfsBinary } from './provision/artifacts.ts'
export {
  dockerComposeBinary,
  hadolintBinary,
  kustomizeBinary,
  prometheusBinaries,
  runWithKubernetesSchemas,
  trinoCliCommand,
} from './provision/deployment-tools.ts'
export { runWithHvac, runWithPyIceberg, runWithTrinoPython } from './provision/python.ts'
export { givenAddress } from './servers/given.ts'
export { startDurableOpenBao } from './servers/durable-openbao.ts'
export type { DurableOpenBaoOptions, DurableOpenBaoServer } from './servers/durable-openbao.ts'
export { openbaoAdmin, startOpenBao } from './servers/openbao.ts'
export type { OpenBaoAdmin, OpenBaoAnswer, OpenBaoServer } from './servers/openbao.ts'
export { openbaoDatabase } from './servers/openbao-database.ts'
export type { OpenBaoDatabase } from './servers/openbao-database.ts'
export { startCassandra } from './servers/cassandra.ts'
export type { CassandraServer } from './servers/cassandra.ts'
export { startProftpd, startVsftpd } from './servers/ftp.ts'
export type { FtpOptions, FtpServer } from './servers/ftp.ts'
export { startKafka } from './servers/kafka.ts'
export type { KafkaOptions, KafkaSecurity, KafkaServer } from './servers/kafka.ts'
export { startMongoJavaServer } from './servers/mongodb.ts'
export type { MongoDbOptions, MongoDbServer } from './servers/mongodb.ts'
export { startNats } from './servers/nats.ts'
export type { NatsOptions, NatsServer } from './servers/nats.ts'
export { runOnNeo4j, startNeo4j } from './servers/neo4j.ts'
export type { Neo4jServer } from './servers/neo4j.ts'
export { type ServerCertificate, serverCertificate } from './servers/certificates.ts'
export { freePorts } from './servers/ports.ts'
export { startPgBouncer } from './servers/pgbouncer.ts'
export type { PgBouncerOptions, PgBouncerServer } from './servers/pgbouncer.ts'
export { createDatabase, runOnPostgres, startPostgres } from './servers/postgres.ts'
export type { PostgresOptions, PostgresServer } from './servers/postgres.ts'
export { startRabbitMq } from './servers/rabbitmq.ts'
export type { RabbitMqOptions, RabbitMqServer } from './servers/rabbitmq.ts'
export { startRclone } from './servers/rclone.ts'
export type { RcloneProtocol, RcloneServer } from './servers/rclone.ts'
export { createBucket, s3Request } from './servers/s3-request.ts'
export type { S3RequestOptions } from './servers/s3-request.ts'
export { startSeaweedfs } from './servers/seaweedfs.ts'
export type { SeaweedfsServer } from './servers/seaweedfs.ts'
export { inTemporaryFolder, launch } from './servers/server-process.ts'
export type { ServerControl, ServerSpecification } from './servers/server-process.ts'
export { startSftp } from './servers/sftp.ts'
export type { SftpServer } from './servers/sftp.ts'
export { startSoap } from './servers/soap.ts'
export type { SoapServer } from './servers/soap.ts'
export { startTrino } from './servers/trino.ts'
export type { TrinoOptions, TrinoServer } from './servers/trino.ts'
export type { TrinoSecurity } from './servers/trino-security.ts'
export { runOnTrino } from './servers/trino-statement.ts'
export type { TrinoRows } from './servers/trino-statement.ts'
export { startVersitygw } from './servers/versitygw.ts'
export type { VersitygwServer } from './servers/versitygw.ts'
export { startWebdav } from './servers/webdav.ts'
export type { WebdavOptions, WebdavServer } from './servers/webdav.ts'
