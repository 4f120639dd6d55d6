import { randomBytes } from 'node:crypto'
import type { PostgresAddress, S3Address, SeaweedfsAddress } from './addresses.ts'
import { metastoreBucket } from './seaweedfs.ts'

/** The content of a Java properties file. */
export type Properties = Readonly<Record<string, string>>

export function propertiesText(properties: Properties): string {
  const lines = Object.entries(properties).map(([key, value]) => `${key}=${value.replaceAll('\\', '\\\\')}`)
  return `${lines.join('\n')}\n`
}

/** etc/config.properties of a server that is coordinator and worker in one and listens on loopback alone. */
export function serverSettings(port: number, heap: Megabytes): Properties {
  const url = `http://127.0.0.1:${port}`
  return {
    'node.environment': 'test',
    'node.id': 'testkit',
    'node.internal-address': '127.0.0.1',
    'node.bind-ip': '127.0.0.1',
    coordinator: 'true',
    'node-scheduler.include-coordinator': 'true',
    'http-server.http.port': String(port),
    'discovery.uri': url,
    // Half of the heap for queries, a fifth for what is not counted: what was left over after that was enough.
    'query.max-memory': `${heap / 2}MB`,
    'query.max-memory-per-node': `${heap / 2}MB`,
    'memory.heap-headroom-per-node': `${Math.floor(heap / 5)}MB`,
    // So that a test can make a catalog of its own; those of etc/catalog stay.
    'catalog.management': 'dynamic',
    'catalog.store': 'file',
  }
}

export type Megabytes = number

/** The catalogs by name. `lake_jdbc` exists when there is a PostgreSQL database for it. */
export function catalogSettings(s3: SeaweedfsAddress, jdbc?: PostgresAddress): Readonly<Record<string, Properties>> {
  const store = storeSettings(s3)
  return {
    lake: {
      'connector.name': 'iceberg',
      'iceberg.catalog.type': 'rest',
      'iceberg.rest-catalog.uri': s3.catalogUri,
      'iceberg.rest-catalog.warehouse': `s3://${s3.tableBucket}`,
      'iceberg.rest-catalog.security': 'OAUTH2',
      'iceberg.rest-catalog.oauth2.credential': `${s3.accessKeyId}:${s3.secretAccessKey}`,
      'iceberg.rest-catalog.nested-namespace-enabled': 'true',
      'iceberg.add-files-procedure.enabled': 'true',
      ...store,
    },
    stage: {
      'connector.name': 'hive',
      'hive.metastore': 'file',
      'hive.metastore.catalog.dir': `s3://${metastoreBucket}/stage`,
      'hive.non-managed-table-writes-enabled': 'true',
      'hive.timestamp-precision': 'MICROSECONDS',
      ...store,
    },
    tpch: { 'connector.name': 'tpch', 'tpch.splits-per-node': '4' },
    ...(jdbc === undefined
      ? {}
      : {
          lake_jdbc: {
            'connector.name': 'iceberg',
            'iceberg.catalog.type': 'jdbc',
            'iceberg.jdbc-catalog.catalog-name': 'lake_jdbc',
            'iceberg.jdbc-catalog.driver-class': 'org.postgresql.Driver',
            'iceberg.jdbc-catalog.connection-url': `jdbc:postgresql://${jdbc.host}:${jdbc.port}/${jdbc.database}`,
            'iceberg.jdbc-catalog.connection-user': jdbc.user,
            'iceberg.jdbc-catalog.connection-password': jdbc.password,
            'iceberg.jdbc-catalog.default-warehouse-dir': `s3://${metastoreBucket}/lake_jdbc`,
            'iceberg.add-files-procedure.enabled': 'true',
            ...store,
          },
        }),
  }
}

/** The spooled protocol: results as files in the store, which clients fetch there. */
export function spoolingSettings(s3: S3Address): { readonly config: Properties; readonly manager: Properties } {
  return {
    config: {
      'protocol.spooling.enabled': 'true',
      'protocol.spooling.shared-secret-key': randomBytes(32).toString('base64'),
      'protocol.spooling.retrieval-mode': 'STORAGE',
    },
    manager: {
      'spooling-manager.name': 'filesystem',
      'fs.s3.enabled': 'true',
      'fs.location': `s3://${metastoreBucket}/spool/`,
      'fs.segment.encryption': 'false',
      's3.endpoint': s3.endpoint,
      's3.region': s3.region,
      's3.path-style-access': 'true',
      's3.aws-access-key': s3.accessKeyId,
      's3.aws-secret-key': s3.secretAccessKey,
    },
  }
}

function storeSettings(s3: S3Address): Properties {
  return {
    'fs.native-s3.enabled': 'true',
    's3.endpoint': s3.endpoint,
    's3.region': s3.region,
    's3.path-style-access': 'true',
    's3.aws-access-key': s3.accessKeyId,
    's3.aws-secret-key': s3.secretAccessKey,
  }
}

/** Trino does not make the two tables of an Iceberg JDBC catalog; it adds the column `iceberg_type` by itself. */
export const jdbcCatalogTables = `
  CREATE TABLE iceberg_tables (
    catalog_name varchar(255) NOT NULL, table_namespace varchar(255) NOT NULL, table_name varchar(255) NOT NULL,
    metadata_location varchar(1000), previous_metadata_location varchar(1000),
    PRIMARY KEY (catalog_name, table_namespace, table_name));
  CREATE TABLE iceberg_namespace_properties (
    catalog_name varchar(255) NOT NULL, namespace varchar(255) NOT NULL, property_key varchar(255) NOT NULL,
    property_value varchar(1000), PRIMARY KEY (catalog_name, namespace, property_key));`
