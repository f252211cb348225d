import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.util.List;

/** Serves MongoDB's protocol on 127.0.0.1 from one file: java MongoServerProcess FILE PORT. SIGTERM writes the file and ends it. */
public final class MongoServerProcess {
    /** What a server must claim to be, lest pymongo refuse it: the versions built into the library are too old. */
    private static final class FiveOh implements MongoVersion {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(5, 0, 0);
        }

        @Override
        public int getWireVersion() {
            return 13;
        }
    }

    public static void main(String[] args) {
        H2Backend backend = new H2Backend(args[0]);
        MongoServer server = new MongoServer(backend.version(new FiveOh()));
        server.bind("127.0.0.1", Integer.parseInt(args[1]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
    }
}
