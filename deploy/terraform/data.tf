# PostgreSQL: the record of all work. Private address only, encrypted, with point-in-time recovery.
resource "google_sql_database_instance" "main" {
  name                = var.name
  region              = var.region
  database_version    = "POSTGRES_17"
  deletion_protection = var.database.protect_from_loss
  depends_on          = [google_service_networking_connection.services]

  settings {
    edition                     = "ENTERPRISE"
    tier                        = var.database.tier
    availability_type           = var.database.highly_available ? "REGIONAL" : "ZONAL"
    disk_type                   = "PD_SSD"
    disk_size                   = var.database.disk_gb
    disk_autoresize             = true
    deletion_protection_enabled = var.database.protect_from_loss

    # Above web.max x (processes x (pool + overflow)), the sweeper and a person's session.
    database_flags {
      name  = "max_connections"
      value = tostring(var.database.max_connections)
    }

    ip_configuration {
      ipv4_enabled    = false
      private_network = google_compute_network.main.id
      ssl_mode        = "ENCRYPTED_ONLY"
    }

    backup_configuration {
      enabled                        = true
      point_in_time_recovery_enabled = true
      transaction_log_retention_days = var.database.transaction_days

      backup_retention_settings {
        retained_backups = var.database.backup_days
        retention_unit   = "COUNT"
      }
    }

    maintenance_window {
      day          = var.database.maintenance_day
      hour         = var.database.maintenance_hour
      update_track = "stable"
    }

    insights_config {
      query_insights_enabled = var.database.query_insights
    }
  }
}

resource "google_sql_database" "main" {
  name     = "swnube"
  instance = google_sql_database_instance.main.name
}

resource "google_sql_user" "main" {
  name                = "swnube"
  instance            = google_sql_database_instance.main.name
  password_wo         = ephemeral.random_password.database.result
  password_wo_version = var.secrets_version
}

# Redis: a doorbell. What it loses, the sweeper finds; it must refuse rather than forget, hence noeviction.
resource "google_redis_instance" "main" {
  name               = var.name
  region             = var.region
  tier               = var.redis.highly_available ? "STANDARD_HA" : "BASIC"
  memory_size_gb     = var.redis.memory_gb
  redis_version      = "REDIS_7_2"
  authorized_network = google_compute_network.main.id
  connect_mode       = "PRIVATE_SERVICE_ACCESS"
  auth_enabled       = true
  redis_configs      = { "maxmemory-policy" = "noeviction" }
  depends_on         = [google_service_networking_connection.services]

  persistence_config {
    persistence_mode    = "RDB"
    rdb_snapshot_period = "ONE_HOUR"
  }
}

resource "google_storage_bucket" "files" {
  name                        = "${var.project}-${var.name}-files"
  location                    = var.bucket.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.bucket.destroy_with_all
  depends_on                  = [google_project_service.needed]

  soft_delete_policy {
    retention_duration_seconds = var.bucket.soft_delete_days * 86400
  }

  # Parts of multipart uploads that nobody finished. (A resumable upload ends by itself after a week.)
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.bucket.delete_days > 0 ? [var.bucket.delete_days] : []
    content {
      action {
        type = "Delete"
      }
      condition {
        age = lifecycle_rule.value
      }
    }
  }
}

# Archives of releases, which instances fetch when they start.
resource "google_storage_bucket" "releases" {
  name                        = "${var.project}-${var.name}-releases"
  location                    = var.bucket.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  depends_on                  = [google_project_service.needed]

  versioning {
    enabled = true
  }
}
