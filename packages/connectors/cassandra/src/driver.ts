// The driver; the other files have it from here. It is loaded with the first client.
import { Client, policies, types } from 'cassandra-driver'

export type Column = types.ResultSet['columns'][number]
export type CqlType = Column['type']
export { Client, policies, types }
