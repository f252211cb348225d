import java.math.BigDecimal;
import java.util.*;

/** JSON: objects are Maps, arrays Lists, numbers BigDecimals; Java has none of its own. */
class Json {
    private final String text;
    private int at;

    private Json(String text) { this.text = text; }
    static Object read(String text) {
        Json json = new Json(text);
        Object value = json.value();
        return need(text.substring(json.at).isBlank()) ? value : null;
    }

    private static boolean need(boolean isJson) { if (isJson) return true; throw new IllegalArgumentException("this is no JSON"); }
    private char next() {
        while (" \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
        return text.charAt(at);
    }

    private boolean take(char wanted) { return next() == wanted && at++ >= 0; }
    private boolean more(char end) { return take(',') || !need(take(end)); }
    private String name() { String name = (String) value(); return need(take(':')) ? name : null; }

    private Object value() {
        if (take('{')) {
            Map<String, Object> members = new LinkedHashMap<>();
            for (boolean more = !take('}'); more; more = more('}')) members.put(name(), value());
            return members;
        }
        if (take('[')) {
            List<Object> items = new ArrayList<>();
            for (boolean more = !take(']'); more; more = more(']')) items.add(value());
            return items;
        }
        if (next() == '"') return string();
        int from = at;
        while (at < text.length() && ",]} \t\r\n".indexOf(text.charAt(at)) < 0) at++;
        String word = text.substring(from, at);
        if (word.equals("null")) return null;
        if (word.equals("true") || word.equals("false")) return word.equals("true");
        need(word.matches("-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]+)?"));
        try { return new BigDecimal(word); } catch (NumberFormatException huge) { return Double.valueOf(word); }
    }

    private String string() {
        StringBuilder found = new StringBuilder();
        while (text.charAt(++at) != '"') {
            char next = text.charAt(at);
            if (next == '\\') {
                need("\"\\/bfnrtu".indexOf(next = text.charAt(++at)) >= 0);
                int escape = "bfnrt".indexOf(next);
                if (escape >= 0) next = "\b\f\n\r\t".charAt(escape);
                if (text.charAt(at) == 'u') next = (char) Integer.parseInt(text.substring(at + 1, (at += 4) + 1), 16);
            }
            found.append(next);
        }
        at++;
        return found.toString();
    }
    static String write(Object value) {
        if (value instanceof Map<?, ?> map) {
            StringJoiner members = new StringJoiner(",", "{", "}");
            map.forEach((name, member) -> members.add(write(name) + ":" + write(member)));
            return members.toString();
        }
        if (value instanceof List<?> list) return "[" + String.join(",", list.stream().map(Json::write).toList()) + "]";
        if (value instanceof String text) return quoted(text);
        if (value == null || value instanceof Boolean || value instanceof Number && ("" + value).matches("[-+.0-9E]+")) return "" + value;
        throw new IllegalArgumentException("JSON has no " + value);
    }

    private static String quoted(String text) {
        StringBuilder found = new StringBuilder("\"");
        for (char c : text.toCharArray()) found.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : c);
        return found.append('"').toString();
    }
}
