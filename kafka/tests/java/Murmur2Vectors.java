// Writes where the Java client's default partitioner puts records with a key: `partitions hexadecimal-key partition`.
// To make the vectors anew: java -cp <folder of the Kafka jars>/'*' Murmur2Vectors.java > murmur2.txt
import java.util.HexFormat;
import java.util.Random;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;

public class Murmur2Vectors {
    public static void main(String[] args) {
        Random random = new Random(42);
        int[] counts = {1, 2, 3, 7, 12, 50, 1000, 4096};
        for (int i = 0; i < 600; i++) {
            byte[] key = new byte[i < 40 ? i : random.nextInt(40)];
            random.nextBytes(key);
            int partitions = counts[i % counts.length];
            int partition = BuiltInPartitioner.partitionForKey(key, partitions);
            System.out.println(partitions + " " + HexFormat.of().formatHex(key) + " " + partition);
        }
    }
}
