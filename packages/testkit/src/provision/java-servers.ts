import { access, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { javaRuntime, obtain } from './artifacts.ts'
import type { Artifact } from './cache.ts'
import { findJava, type Java } from './java.ts'
import { installDebianPackage, ProvisionError, runClient } from './package-clients.ts'
import { readEnvironment } from '../config.ts'

/** A Java program: what runs it, and its class path. */
export interface JavaProgram {
  readonly java: Java
  readonly classPath: string
}

interface JavaServer {
  readonly name: string
  readonly version: string
  /** Maven coordinates, group:artifact:version. */
  readonly dependencies: readonly string[]
  /** What the dependencies name and no repository has: group:artifact. */
  readonly without?: string
  /** Source of the class `Main`, where the libraries have no main class of their own. */
  readonly main?: string
}

function javaServer(server: JavaServer): Artifact {
  return {
    name: server.name,
    version: server.version,
    async fetch(into, scratch) {
      await runClient('mvn', ['--version']).catch((error: unknown) => {
        throw new ProvisionError(`${server.name} is fetched with Maven, which is missing: install Maven`, { cause: error })
      })
      const project = join(scratch, 'pom.xml')
      await writeFile(project, projectFile(server))
      const lib = join(into, 'lib')
      await runClient(
        'mvn',
        [
          '--quiet',
          '--batch-mode',
          // A repository of its own: the libraries would otherwise stay twice.
          `-Dmaven.repo.local=${join(scratch, 'repository')}`,
          `--file=${project}`,
          `-DoutputDirectory=${lib}`,
          'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies',
        ],
        { signal: AbortSignal.timeout(600_000) },
      )
      if (server.main !== undefined) await compile(server.name, server.main, lib, into, scratch)
    },
  }
}

function projectFile({ name, version, dependencies, without }: JavaServer): string {
  const coordinates = (text: string): string => {
    const [group = '', artifact = '', release] = text.split(':')
    const plain = `<groupId>${group}</groupId><artifactId>${artifact}</artifactId>`
    return release === undefined ? plain : `${plain}<version>${release}</version>`
  }
  const exclusions = without === undefined ? '' : `<exclusions><exclusion>${coordinates(without)}</exclusion></exclusions>`
  const entries = dependencies.map((text) => `<dependency>${coordinates(text)}${exclusions}</dependency>`)
  return `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
${coordinates(`common-handlers:${name}:${version}`)}<packaging>pom</packaging>
<dependencies>${entries.join('\n')}</dependencies></project>`
}

async function compile(name: string, source: string, lib: string, into: string, scratch: string): Promise<void> {
  const java = await findJava(17)
  const compiler = join(java?.home ?? '/usr', 'bin', 'javac')
  await access(compiler).catch((error: unknown) => {
    throw new ProvisionError(`${name} is compiled with javac, which is missing: install a JDK from 17 on`, { cause: error })
  })
  const file = join(scratch, 'Main.java')
  await writeFile(file, source)
  const classes = join(into, 'classes')
  await mkdir(classes)
  await runClient(compiler, ['--release', '17', '-proc:none', '-cp', join(lib, '*'), '-d', classes, file])
}

/** Apache Kafka, the broker and what formats its storage. */
export const kafka: Artifact = javaServer({
  name: 'kafka',
  version: '4.4.0',
  dependencies: ['org.apache.kafka:kafka_2.13:4.4.0', 'org.slf4j:slf4j-simple:1.7.36'],
  without: 'org.apache.kafka:kafka-tools-api',
})

/** Apache Cassandra, which runs on Java 11 and 17. */
export const cassandra: Artifact = javaServer({
  name: 'cassandra',
  version: '5.0.6',
  dependencies: ['org.apache.cassandra:cassandra-all:5.0.6'],
})

/** Neo4j, the community edition. */
export const neo4j: Artifact = javaServer({
  name: 'neo4j',
  version: '2026.08.1',
  dependencies: ['org.neo4j.app:neo4j-server:2026.08.1', 'org.neo4j:neo4j:2026.08.1'],
  // By name: its classes are of Java 25, and an older compiler does not read them.
  main: `import java.lang.reflect.*;
public class Main {
  public static void main(String[] arguments) throws Exception {
    Class<?> bootstrapper = Class.forName("org.neo4j.server.Bootstrapper");
    Object community = Class.forName("org.neo4j.server.CommunityBootstrapper").getConstructor().newInstance();
    Object blocking = Class.forName("org.neo4j.server.BlockingBootstrapper").getConstructor(bootstrapper).newInstance(community);
    Method start = Class.forName("org.neo4j.server.NeoBootstrapper").getMethod("start", bootstrapper, String[].class);
    System.exit((Integer) start.invoke(null, blocking, arguments));
  }
}
`,
})

/** mongo-java-server, which speaks MongoDB's protocol and is not MongoDB. */
export const mongoJavaServer: Artifact = javaServer({
  name: 'mongo-java-server',
  // The second Main for it.
  version: '1.47.0-2',
  dependencies: ['de.bwaldvogel:mongo-java-server:1.47.0'],
  // It says it is MongoDB 5.0 (wire version 13): drivers of today refuse what it says by itself. Its operations log is what
  // change streams read. Arguments: the port and, for TLS, the files of key and certificate.
  main: `import de.bwaldvogel.mongo.*;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.nio.file.*;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.cert.*;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.*;
public class Main {
  public static void main(String[] arguments) throws Exception {
    MongoServer server = new MongoServer(new MemoryBackend().version(new MongoVersion() {
      public List<Integer> getVersionArray() { return List.of(5, 0, 0); }
      public int getWireVersion() { return 13; }
    }));
    server.enableOplog();
    if (arguments.length > 1) {
      String pem = Files.readString(Path.of(arguments[1])).replaceAll("-----[A-Z ]+-----", "");
      byte[] encoded = Base64.getMimeDecoder().decode(pem);
      PrivateKey key = KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(encoded));
      X509Certificate certificate;
      try (var file = Files.newInputStream(Path.of(arguments[2]))) {
        certificate = (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(file);
      }
      server.enableSsl(key, null, certificate);
    }
    server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
    Runtime.getRuntime().addShutdownHook(new Thread(server::shutdown));
  }
}
`,
})

/** A SOAP service on the reference implementation of JAX-WS, behind basic authentication. */
export const soapService: Artifact = javaServer({
  name: 'soap-service',
  version: '4.0.3',
  dependencies: ['com.sun.xml.ws:jaxws-rt:4.0.3'],
  main: `import com.sun.net.httpserver.*;
import jakarta.jws.*;
import jakarta.xml.ws.*;
import java.math.BigDecimal;
import java.net.InetSocketAddress;
import java.util.*;
import java.util.concurrent.Executors;
@WebService(name = "Orders", serviceName = "OrderService", targetNamespace = "urn:orders")
public class Main {
  public static class Order { public int id; public String name; public Date at; public BigDecimal total; }
  @WebMethod public List<Order> GetOrders(@WebParam(name = "since") int since, @WebParam(name = "count") int count) {
    List<Order> orders = new ArrayList<>();
    for (int id = since; id < since + count; id++) {
      Order order = new Order();
      order.id = id;
      order.name = "n & <" + id + ">";
      order.at = new Date(id * 1000L);
      order.total = new BigDecimal("12345678901234567890.12");
      orders.add(order);
    }
    return orders;
  }
  @WebMethod public String Fail(@WebParam(name = "message") String message) { throw new WebServiceException(message); }
  @WebMethod public String Wait(@WebParam(name = "milliseconds") int milliseconds) throws InterruptedException {
    Thread.sleep(milliseconds);
    return "waited";
  }
  public static void main(String[] arguments) throws Exception {
    String user = System.getenv("SOAP_USER"), password = System.getenv("SOAP_PASSWORD");
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 0);
    server.setExecutor(Executors.newCachedThreadPool());
    HttpContext context = server.createContext("/orders");
    context.setAuthenticator(new BasicAuthenticator("orders") {
      public boolean checkCredentials(String name, String word) { return name.equals(user) && word.equals(password); }
    });
    Endpoint.create(new Main()).publish(context);
    server.start();
  }
}
`,
})

/** What makes a Java program start soon and stay small: the first compiler alone. */
export const quickStart = ['-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1'] as const

/** The program of an {@link Artifact} from here, with a Java that runs it. @throws ProvisionError */
export async function javaProgram(artifact: Artifact, atLeast: number, atMost?: number): Promise<JavaProgram> {
  const [folder, java] = await Promise.all([obtain(artifact), javaOf(artifact.name, atLeast, atMost)])
  return { java, classPath: `${join(folder, 'classes')}:${join(folder, 'lib', '*')}` }
}

async function javaOf(name: string, atLeast: number, atMost?: number): Promise<Java> {
  const found = await findJava(atLeast, atMost)
  if (found !== undefined) return found
  if (atMost === undefined) {
    const runtime = join(await obtain(javaRuntime), 'runtime')
    return { home: runtime, command: join(runtime, 'bin', 'java'), major: 25 }
  }
  if (readEnvironment().fetch) await installDebianPackage(`openjdk-${atLeast}-jre-headless`)
  const installed = await findJava(atLeast, atMost)
  if (installed === undefined) throw new ProvisionError(`${name} runs on Java ${atLeast}, which is not on this machine`)
  return installed
}
