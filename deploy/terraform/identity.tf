# One service account a role, with what the role needs and nothing else.
resource "google_service_account" "role" {
  for_each     = toset(["web", "worker", "sweeper"])
  account_id   = "${var.name}-${each.key}"
  display_name = "SWNube ${each.key}"
  depends_on   = [google_project_service.needed]
}

locals {
  # Who may read which secret. The worker can neither reach the database nor sign a token.
  readers = {
    database-url   = ["web", "sweeper"]
    jwt-secret-key = ["web", "sweeper"]
    redis-url      = ["web", "worker", "sweeper"]
  }
  grants = merge([for secret, roles in local.readers : { for role in roles : "${secret} ${role}" => { secret = secret, role = role } }]...)

}

# Made while Terraform runs and passed on; in no state and no plan. `secrets_version` says when to make new ones.
ephemeral "random_password" "database" {
  length  = 48
  special = false
}

ephemeral "random_password" "jwt" {
  length  = 64
  special = false
}

resource "google_secret_manager_secret" "main" {
  for_each   = local.readers
  secret_id  = "${var.name}-${each.key}"
  depends_on = [google_project_service.needed]

  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_version" "database" {
  secret                 = google_secret_manager_secret.main["database-url"].id
  secret_data_wo         = "postgresql://swnube:${ephemeral.random_password.database.result}@${google_sql_database_instance.main.private_ip_address}:5432/swnube?sslmode=require"
  secret_data_wo_version = var.secrets_version
}

resource "google_secret_manager_secret_version" "jwt" {
  secret                 = google_secret_manager_secret.main["jwt-secret-key"].id
  secret_data_wo         = ephemeral.random_password.jwt.result
  secret_data_wo_version = var.secrets_version
}

resource "google_secret_manager_secret_version" "redis" {
  secret                 = google_secret_manager_secret.main["redis-url"].id
  secret_data_wo         = "redis://:${google_redis_instance.main.auth_string}@${google_redis_instance.main.host}:${google_redis_instance.main.port}/0"
  secret_data_wo_version = var.secrets_version
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each  = local.grants
  secret_id = google_secret_manager_secret.main[each.value.secret].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.role[each.value.role].member
}

# Objects: list, read, create, delete. Nothing about the bucket itself.
resource "google_storage_bucket_iam_member" "files" {
  for_each = google_service_account.role
  bucket   = google_storage_bucket.files.name
  role     = "roles/storage.objectUser"
  member   = each.value.member
}

resource "google_storage_bucket_iam_member" "releases" {
  for_each = google_service_account.role
  bucket   = google_storage_bucket.releases.name
  role     = "roles/storage.objectViewer"
  member   = each.value.member
}

# A download is a signed URL: the web role signs as itself, without a key file.
resource "google_service_account_iam_member" "web_signs" {
  service_account_id = google_service_account.role["web"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_service_account.role["web"].member
}

# The sweeper writes the queue's depth; with the Ops Agent every role writes logs and metrics.
resource "google_project_iam_member" "metrics" {
  for_each = { for name, account in google_service_account.role : name => account if name == "sweeper" || var.ops_agent }
  project  = var.project
  role     = "roles/monitoring.metricWriter"
  member   = each.value.member
}

resource "google_project_iam_member" "logs" {
  for_each = { for name, account in google_service_account.role : name => account if var.ops_agent }
  project  = var.project
  role     = "roles/logging.logWriter"
  member   = each.value.member
}
