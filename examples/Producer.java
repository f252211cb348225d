import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.*;

/**
 * A producer for KQS: javac -d out *.java, java -cp out Producer HOST PORT TYPE. Each line of stdin is the data of a job, as JSON.
 * Prints the id of each that is kept, or `refused: CODE`.
 */
class Producer {
    /** Inserts a job under an id of our own, so that it may be repeated until it is answered. */
    static String insert(Kqs kqs, String type, Object data) throws Kqs.Refused {
        Map<String, Object> job = new HashMap<>(Map.of("type", type, "id", UUID.randomUUID().toString(), "wait", 0));
        job.put("data", data);
        while (true) {
            try {
                String id = (String) kqs.call("insert", job);
                kqs.succeeded();
                return id;
            } catch (Kqs.Refused refused) {
                if (!Kqs.LATER.contains(refused.getMessage())) throw refused;
                kqs.pause();
            }
        }
    }

    public static void main(String[] arguments) throws IOException {
        Kqs kqs = new Kqs(arguments[0], arguments[1]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int status = 0;
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            if (line.isBlank()) continue;
            try {
                System.out.println(insert(kqs, arguments[2], Json.read(line)));
            } catch (Kqs.Refused | RuntimeException | StackOverflowError refused) {
                System.out.println("refused: " + (refused instanceof Kqs.Refused ? refused.getMessage() : "bad_json"));
                status = 1;
            }
        }
        System.exit(status);
    }
}
