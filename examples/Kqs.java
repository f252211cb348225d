import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.util.*;

/** What Worker.java and Producer.java share: a connection to KQS that comes back, one call at a time over it, and JSON. */
class Kqs {
    /** An error's code; "lost" if the connection was lost before the answer, so that nobody knows what was done. */
    static class Refused extends Exception {
        Refused(String code) { super(code); }
    }

    /** What may well be taken when it is tried again. */
    static final Set<String> LATER = Set.of("lost", "busy", "draining", "no_space", "journal_failed", "internal");

    private final String host;
    private final int port;
    private static final int SILENCE_MS = 10_000; // for so long a server that is there does not keep silent
    private Socket socket;
    private InputStream in;
    private double pauseS = 0.1;

    Kqs(String host, String port) { this.host = host; this.port = Integer.parseInt(port); }

    Object call(String name, Object argument) throws Refused {
        try {
            if (socket == null) {
                socket = new Socket();
                socket.connect(new InetSocketAddress(host, port), SILENCE_MS);
                socket.setSoTimeout(SILENCE_MS);
                in = new BufferedInputStream(socket.getInputStream());
            }
            String line = Json.write(Map.of("id", 1, "n", name, "m", argument)) + "\n";
            socket.getOutputStream().write(line.getBytes(StandardCharsets.UTF_8));
            Map<?, ?> answer = (Map<?, ?>) Json.read(readLine());
            if (answer.get("e") instanceof Map<?, ?> error) throw new Refused((String) error.get("code"));
            return answer.get("m");
        } catch (IOException gone) {
            close();
            throw new Refused("lost");
        }
    }

    private String readLine() throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int next = in.read(); next != '\n'; next = in.read()) {
            if (next < 0) throw new EOFException(); // what ends without a newline is no line
            line.write(next);
        }
        return line.toString(StandardCharsets.UTF_8);
    }

    private void close() {
        try {
            if (socket != null) socket.close();
        } catch (IOException gone) { /* it is closed all the same */ }
        socket = null;
    }

    /** Waits longer each time, up to 5 s, until `succeeded` is called. */
    void pause() {
        try {
            Thread.sleep((long) (pauseS * 1000 * (0.5 + Math.random() / 2)));
        } catch (InterruptedException early) { /* then it was shorter */ }
        pauseS = Math.min(2 * pauseS, 5);
    }

    /** Pauses, or ends a program that is to stop and has waited its longest. */
    void pauseOrEnd(boolean isToStop) {
        if (isToStop && pauseS == 5) {
            System.err.println("nobody takes the last report");
            Runtime.getRuntime().halt(1);
        }
        pause();
    }

    void succeeded() { pauseS = 0.1; }
}
