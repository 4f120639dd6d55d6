// The driver; the other files have it from here. It is loaded with the first client.
import { BSON, type ChangeStream, type Db, type Document, MongoClient } from 'mongodb'

export type { Db, Document as BsonDocument }
export type BsonChanges = ChangeStream<Document, Document>
export { BSON, MongoClient }
