import java.util.*;
import java.util.concurrent.*;

/**
 * A worker for KQS, one job at a time: javac -d out *.java, java -cp out Worker HOST PORT.
 * Put types of your own into TYPES and `work`; the rest keeps the rules of docs/write-a-client.md.
 */
class Worker {
    static final List<String> TYPES = List.of("echo", "sleep", "fail");
    static final ExecutorService threads = Executors.newCachedThreadPool();
    static volatile boolean stopping;
    static Kqs kqs;

    /** Returns the result, or throws the reason of a failure. It is interrupted when nobody wants either any more. */
    static Object work(String type, Object data) throws Exception {
        if (type.equals("fail")) throw new Exception((String) ((Map<?, ?>) data).get("reason"));
        if (type.equals("sleep")) Thread.sleep((long) (1000 * number(data, "s")));
        return data;
    }

    static double number(Object object, String name) { return ((Number) ((Map<?, ?>) object).get(name)).doubleValue(); }

    static void runJob(Map<?, ?> run) {
        String token = (String) run.get("run");
        Future<Object> doing = threads.submit(() -> Json.read(Json.write(work((String) run.get("type"), run.get("data")))));
        Map<String, Object> report = new HashMap<>(Map.of("run", token));
        while (report.size() == 1) {
            try {
                report.put("result", doing.get((long) (1000 * number(run, "ttr") / 3), TimeUnit.MILLISECONDS));
                report.put("report", "ok");
            } catch (TimeoutException itGoesOn) {
                if (!touch(token) && doing.cancel(true)) return;
            } catch (ExecutionException | InterruptedException failed) {
                report.putAll(Map.of("report", "fail", "reason", String.valueOf(failed.getCause().getMessage())));
            }
        }
        while (!finish(report)) kqs.pauseOrEnd(stopping);
    }

    /** Tells whether the run goes on; else it is stale, cancelled, or lost with the connection: somebody else has the job. */
    static boolean touch(String token) {
        try {
            return ((Map<?, ?>) kqs.call("touch", Map.of("run", token))).get("cancel").equals(false);
        } catch (Kqs.Refused refused) { return !Set.of("stale", "lost").contains(refused.getMessage()); }
    }

    /** Tells whether it is done with; if not, it is repeated, which is safe. A report that is refused for good becomes a failure. */
    static boolean finish(Map<String, Object> report) {
        try {
            return kqs.call("finish", report) != null;
        } catch (Kqs.Refused refused) {
            String code = refused.getMessage();
            System.err.println(report.get("run") + " " + code);
            if (Kqs.LATER.contains(code)) return false;
            if (code.equals("stale") || report.get("report").equals("fail")) return true;
            return finish(Map.of("run", report.get("run"), "report", "fail", "reason", code));
        }
    }

    public static void main(String[] arguments) {
        kqs = new Kqs(arguments[0], arguments[1]);
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> { // of SIGTERM
            stopping = true;
            try { main.join(); } catch (InterruptedException early) { /* nobody does that */ }
            Runtime.getRuntime().halt(0);
        }));
        while (!stopping) {
            try {
                for (Object run : (List<?>) kqs.call("reserve", Map.of("types", TYPES, "wait", 2, "worker", "java"))) {
                    kqs.succeeded();
                    if (stopping) kqs.call("release", Map.of("run", ((Map<?, ?>) run).get("run"), "begun", false));
                    else runJob((Map<?, ?>) run);
                }
            } catch (Kqs.Refused refused) { kqs.pause(); }
        }
    }
}
