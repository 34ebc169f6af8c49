// A round trip with the client that openapi-generator makes of the service's own document.

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.OffsetDateTime;
import java.util.List;
import java.util.UUID;
import sosie.ApiClient;
import sosie.ApiException;
import sosie.api.EnrollmentsApi;
import sosie.model.Document;
import sosie.model.Enrollment;
import sosie.model.EnrollmentRequest;

class RoundTrip {
  public static void main(String[] given) throws Exception {
    ApiClient client = new ApiClient();
    client.updateBaseUri(given[0]);
    client.setRequestInterceptor(one -> one.header("Authorization", "Bearer " + given[1]));
    EnrollmentsApi api = new EnrollmentsApi(client);
    String key = UUID.randomUUID().toString();
    EnrollmentRequest request = write("110105199003070009", given[2]);
    Enrollment approved = api.createEnrollment(key, request, null, null);
    expect(approved.getDecision() == Enrollment.DecisionEnum.APPROVED, "an approval");
    Enrollment again = api.createEnrollment(key, request, null, null);
    expect(again.getIsRepeated(), "the stored answer");
    Enrollment rejected =
        api.createEnrollment(
            UUID.randomUUID().toString(), write("110105199003079011", given[2]), null, null);
    expect(rejected.getReasons().size() == 1, "a reason");
    expect(
        api.readEnrollment(approved.getEnrollmentId(), null, null).getDecision() != null,
        "the record");
    try {
      api.readEnrollment(UUID.randomUUID().toString(), null, null);
      throw new IllegalStateException("found what is not there");
    } catch (ApiException error) {
      expect(error.getCode() == 404, "an error with its code");
    }
    System.out.println("Java: 5 answers as promised");
  }

  static EnrollmentRequest write(String number, String pictures) throws Exception {
    Document document =
        new Document().type(Document.TypeEnum.CN_RIC).number(number).name("Sandra Sand");
    return new EnrollmentRequest()
        .document(document)
        .msisdn("+8613800138111")
        .live(List.of(read(pictures, "anybody-1")))
        .portrait(read(pictures, "anybody-2"))
        .consentRef("C-1")
        .capturedAt(OffsetDateTime.now());
  }

  static byte[] read(String pictures, String name) throws Exception {
    return Files.readAllBytes(Path.of(pictures, name + ".png"));
  }

  static void expect(boolean is, String what) {
    if (!is) throw new IllegalStateException("not as promised: " + what);
  }
}
