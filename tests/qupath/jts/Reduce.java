import java.io.BufferedReader;
import java.io.InputStreamReader;
import org.locationtech.jts.geom.Geometry;
import org.locationtech.jts.geom.GeometryFactory;
import org.locationtech.jts.geom.PrecisionModel;
import org.locationtech.jts.io.WKTReader;
import org.locationtech.jts.precision.GeometryPrecisionReducer;

/** Reduces one WKT per line to a 0.01 grid, as QuPath does on import; prints "ok AREA VALID" or "throws". */
public class Reduce {
    public static void main(String[] args) throws Exception {
        WKTReader wkt = new WKTReader(new GeometryFactory());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        PrecisionModel grid = new PrecisionModel(-0.01);
        StringBuilder out = new StringBuilder();
        String line;
        while ((line = in.readLine()) != null) {
            try {
                Geometry reduced = GeometryPrecisionReducer.reduce(wkt.read(line), grid);
                out.append("ok ").append(reduced.getArea()).append(' ').append(reduced.isValid()).append('\n');
            } catch (IllegalArgumentException e) {
                out.append("throws\n");
            }
        }
        System.out.print(out);
    }
}
